"""True captions of a scene in seven languages, from small grammars (about 0.03 ms per caption, no data files).

Every caption names shape, colour and count, so a caption of a scene which differs in one of them is false; only some
name the background. Words are separated by spaces in Chinese too, so that a word count means something there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pairsieve.pipelines.demo_world import BACKGROUNDS, COLOURS, SHAPES, Scene, pick

Language = Literal["en", "de", "es", "fr", "it", "ru", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "de", "es", "fr", "it", "ru", "zh")
ENGLISH_SHARE = 0.64


@dataclass(frozen=True)
class Lexicon:
    """The words of one language; tables are comma-separated, in the order of SHAPES, COLOURS and BACKGROUNDS.

    A noun is "gender one few many" (few: two to four). A colour lists its forms for one m, f, n, then for several
    m, f, n. `one` lists the numeral in three genders, `counts` the other numerals; "/" separates free variants.
    """

    nouns: str
    colours: str
    grounds: str
    one: str
    counts: str
    phrase: str
    templates: tuple[str, ...]


LEXICONS: dict[Language, Lexicon] = {
    "en": Lexicon(
        nouns="m circle circles circles,m square squares squares,m triangle triangles triangles,m star stars stars,"
        "m ring rings rings,m cross crosses crosses,m heart hearts hearts,m diamond diamonds diamonds",
        colours="red,green,blue,yellow,orange,purple,black,white",
        grounds="a grey background,a beige background,a light blue background,a striped background,"
        "a dotted background,a checked background",
        one="one/a single/exactly one/1",
        counts="two/a pair of/2,three/3,four/4,five/5",
        phrase="{n} {c} {s}",
        templates=(
            "{np} on {bg}",
            "{np} drawn on {bg}",
            "a picture of {np}",
            "a drawing of {np} on {bg}",
            "an illustration showing {np}",
            "a card with {np} and {bg}",
            "we see {np} against {bg}",
            "simple drawing with {np}",
            "{np} in front of {bg}",
            "this image contains {np}",
            "shapes for children: {np}",
            "{bg} with {np}",
            "worksheet page with {np} on {bg}",
            "here you can count {np}",
            "learning shapes and colours, {np}",
            "a poster that shows {np} on {bg}",
        ),
    ),
    "de": Lexicon(
        nouns="m Kreis Kreise Kreise,n Quadrat Quadrate Quadrate,n Dreieck Dreiecke Dreiecke,m Stern Sterne Sterne,"
        "m Ring Ringe Ringe,n Kreuz Kreuze Kreuze,n Herz Herzen Herzen,f Raute Rauten Rauten",
        colours="roter rote rotes rote,grüner grüne grünes grüne,blauer blaue blaues blaue,gelber gelbe gelbes gelbe,"
        "orangefarbener orangefarbene orangefarbenes orangefarbene,violetter violette violettes violette,"
        "schwarzer schwarze schwarzes schwarze,weißer weiße weißes weiße",
        grounds="grauem Hintergrund,beigem Hintergrund,hellblauem Hintergrund,gestreiftem Hintergrund,"
        "gepunktetem Hintergrund,kariertem Hintergrund",
        one="ein eine ein",
        counts="zwei,drei,vier,fünf",
        phrase="{n} {c} {s}",
        templates=(
            "{np} auf {bg}",
            "Bild: {np} auf {bg}",
            "hier sieht man {np}",
            "Zeichnung, darauf {np}",
            "auf {bg} zu sehen: {np}",
        ),
    ),
    "es": Lexicon(
        nouns="m círculo círculos círculos,m cuadrado cuadrados cuadrados,m triángulo triángulos triángulos,"
        "f estrella estrellas estrellas,m anillo anillos anillos,f cruz cruces cruces,"
        "m corazón corazones corazones,m rombo rombos rombos",
        colours="rojo roja rojo rojos rojas,verde verde verde verdes verdes,azul azul azul azules azules,"
        "amarillo amarilla amarillo amarillos amarillas,naranja naranja naranja naranjas naranjas,"
        "morado morada morado morados moradas,negro negra negro negros negras,blanco blanca blanco blancos blancas",
        grounds="un fondo gris,un fondo beige,un fondo celeste,un fondo a rayas,un fondo de puntos,un fondo a cuadros",
        one="un una un",
        counts="dos,tres,cuatro,cinco",
        phrase="{n} {s} {c}",
        templates=(
            "{np} sobre {bg}",
            "un dibujo de {np}",
            "imagen con {np} sobre {bg}",
            "aquí vemos {np}",
            "una tarjeta con {np} y {bg}",
        ),
    ),
    "fr": Lexicon(
        nouns="m cercle cercles cercles,m carré carrés carrés,m triangle triangles triangles,f étoile étoiles étoiles,"
        "m anneau anneaux anneaux,f croix croix croix,m cœur cœurs cœurs,m losange losanges losanges",
        colours="rouge rouge rouge rouges rouges,vert verte vert verts vertes,bleu bleue bleu bleus bleues,"
        "jaune jaune jaune jaunes jaunes,orange orange orange orange orange,"
        "violet violette violet violets violettes,noir noire noir noirs noires,blanc blanche blanc blancs blanches",
        grounds="un fond gris,un fond beige,un fond bleu clair,un fond rayé,un fond à pois,un fond à carreaux",
        one="un une un",
        counts="deux,trois,quatre,cinq",
        phrase="{n} {s} {c}",
        templates=(
            "{np} sur {bg}",
            "un dessin montrant {np}",
            "une image avec {np} sur {bg}",
            "on voit ici {np}",
            "{np} devant {bg}",
        ),
    ),
    "it": Lexicon(
        nouns="m cerchio cerchi cerchi,m quadrato quadrati quadrati,m triangolo triangoli triangoli,"
        "f stella stelle stelle,m anello anelli anelli,f croce croci croci,m cuore cuori cuori,m rombo rombi rombi",
        colours="rosso rossa rosso rossi rosse,verde verde verde verdi verdi,blu blu blu blu blu,"
        "giallo gialla giallo gialli gialle,arancione arancione arancione arancioni arancioni,"
        "viola viola viola viola viola,nero nera nero neri nere,bianco bianca bianco bianchi bianche",
        grounds="uno sfondo grigio,uno sfondo beige,uno sfondo azzurro,uno sfondo a righe,uno sfondo a pois,"
        "uno sfondo a quadri",
        one="un una un",
        counts="due,tre,quattro,cinque",
        phrase="{n} {s} {c}",
        templates=(
            "{np} su {bg}",
            "un disegno con {np}",
            "immagine di {np} su {bg}",
            "qui vediamo {np}",
            "una figura che mostra {np}",
        ),
    ),
    "ru": Lexicon(
        nouns="m круг круга кругов,m квадрат квадрата квадратов,m треугольник треугольника треугольников,"
        "f звезда звезды звёзд,n кольцо кольца колец,m крест креста крестов,n сердце сердца сердец,"
        "m ромб ромба ромбов",
        colours="красный красная красное красных,зелёный зелёная зелёное зелёных,синий синяя синее синих,"
        "жёлтый жёлтая жёлтое жёлтых,оранжевый оранжевая оранжевое оранжевых,"
        "фиолетовый фиолетовая фиолетовое фиолетовых,чёрный чёрная чёрное чёрных,белый белая белое белых",
        grounds="сером фоне,бежевом фоне,голубом фоне,полосатом фоне,фоне в горошек,клетчатом фоне",
        one="один одна одно",
        counts="два две два,три,четыре,пять",
        phrase="{n} {c} {s}",
        templates=(
            "{np} на {bg}",
            "на рисунке {np}",
            "картинка: {np} на {bg}",
            "здесь мы видим: {np}",
            "рисунок для детей, {np}",
        ),
    ),
    "zh": Lexicon(
        nouns="m 圆形 圆形 圆形,m 方形 方形 方形,m 三角形 三角形 三角形,m 星形 星形 星形,m 圆环 圆环 圆环,"
        "m 十字 十字 十字,m 心形 心形 心形,m 菱形 菱形 菱形",
        colours="红色,绿色,蓝色,黄色,橙色,紫色,黑色,白色",
        grounds="灰色 背景,米色 背景,浅蓝色 背景,条纹 背景,圆点 背景,方格 背景",
        one="一个",
        counts="两个,三个,四个,五个",
        phrase="{n} {c} {s}",
        templates=(
            "{bg} 上 有 {np}",
            "图片 里 有 {np}",
            "{np} 画 在 {bg} 上",
            "这 是 {np}",
            "一张 画着 {np} 的 图片",
        ),
    ),
}


def _form(forms: str, slot: int) -> str:
    """Take the form of a slot; a word with fewer forms repeats its last one."""
    options = forms.split(" ")
    return options[min(slot, len(options) - 1)]


def _numeral(lexicon: Lexicon, count: int, gender: int, rng: np.random.Generator) -> str:
    table = lexicon.one if count == 1 else lexicon.counts.split(",")[count - 2]
    return pick(rng, tuple(table.split("/"))) if "/" in table else _form(table, gender)


def _noun_phrase(scene: Scene, lexicon: Lexicon, rng: np.random.Generator) -> str:
    gender_letter, one, few, many = lexicon.nouns.split(",")[SHAPES.index(scene.shape)].split(" ")
    gender = "mfn".index(gender_letter)
    noun = one if scene.count == 1 else few if scene.count <= 4 else many
    colour = lexicon.colours.split(",")[COLOURS.index(scene.colour)]
    return lexicon.phrase.format(
        n=_numeral(lexicon, scene.count, gender, rng),
        c=_form(colour, gender if scene.count == 1 else gender + 3),
        s=noun,
    )


def sample_language(rng: np.random.Generator) -> Language:
    """Draw English in 64 % of the cases, each other language equally often in the rest."""
    return "en" if rng.random() < ENGLISH_SHARE else pick(rng, LANGUAGES[1:])


def caption(scene: Scene, language: Language, rng: np.random.Generator) -> str:
    """Write one true statement about the scene, of at least three words, starting with a capital half of the time."""
    lexicon = LEXICONS[language]
    text = pick(rng, lexicon.templates).format(
        np=_noun_phrase(scene, lexicon, rng),
        bg=lexicon.grounds.split(",")[BACKGROUNDS.index(scene.background)],
    )
    return text[0].upper() + text[1:] if rng.random() < 0.5 else text


def names_background(text: str, scene: Scene, language: Language) -> bool:
    """Tell whether a caption says what the background is, which decides whom else it is true of."""
    ground = LEXICONS[language].grounds.split(",")[BACKGROUNDS.index(scene.background)]
    return ground.lower() in text.lower()
