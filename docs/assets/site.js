// Long lines and wide tables scroll with the keyboard too: the theme makes neither reachable.
addEventListener("load", () => {
  for (const box of document.querySelectorAll("pre > code, .md-typeset__scrollwrap")) box.tabIndex = 0;
});
