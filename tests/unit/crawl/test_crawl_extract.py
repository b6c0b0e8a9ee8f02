from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lora_factory.crawl.extract import ImageRef, Page, Unparsable, largest, parse_page
from lora_factory.crawl.fragments import MAX_FRAGMENT, plain, squeeze

URL = "http://h.example/rooms/page.html"
MIT = '<a rel="license" href="https://opensource.org/license/mit">MIT</a>'
BY = '<a href="https://creativecommons.org/licenses/by/4.0/">CC BY</a>'


def read(html: str) -> Page:
    return parse_page(html.encode(), URL, "utf-8")


def only(html: str) -> ImageRef:
    (image,) = read(html).images
    return image


def test_text_has_no_scripts_or_styles() -> None:
    page = read(
        "<title> Two  words </title><body>seen<script>var x='hidden'</script><style>p{}</style>"
        "<template>later</template><!-- secret --><p>too</p>"
    )
    assert (page.title, page.text) == ("Two words", "seen\ntoo")


def test_images_come_with_their_words() -> None:
    image = only(
        "<main><div><figure><img src=/a.png alt=' red\n apple '><figcaption>An apple</figcaption>"
        "</figure><p>Diagonal hatching stands for the colour.</p></div><p>unrelated</p></main>"
    )
    assert image.url == "http://h.example/a.png"
    assert image.alt == "red apple"
    assert image.caption == "An apple"
    assert image.nearby == "Diagonal hatching stands for the colour."


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("a red fox", "a red fox"),
        ("salt & pepper, 3 < 4", "salt & pepper, 3 < 4"),
        ("<p>A <b>red</i> fox", "A red fox"),
        ("&lt;b&gt;A fox&lt;/b&gt;", "<b>A fox</b>"),
        ("Tom &amp; Jerry &#8211; <script>alert(1)</script>cat", "Tom & Jerry – cat"),
        ("<!-- note -->a fox<style>p{}</style>", "a fox"),
        ("<p>cut <a hre", "cut"),
        ("<div>" * 3000 + "fox", "fox"),
        ("", ""),
    ],
)
def test_words_of_pieces_of_html(value: str, words: str) -> None:
    assert plain(value) == words


@given(st.text(alphabet="<>&;/!-='\" abscript\x00\ud800", max_size=300))
def test_no_piece_of_html_raises(value: str) -> None:
    assert "\x00" not in plain(value)
    assert len(plain("<b>" + value + "a" * 2 * MAX_FRAGMENT)) <= MAX_FRAGMENT


def test_captions_of_galleries_stand_in_attributes() -> None:
    fox, owl, cat = read(
        "<a href=/big.png data-sub-html='<h4>A red fox</h4> <p>in snow'><img src=/a.png></a>"
        "<p><img src=/b.png alt='&lt;em&gt;An&lt;/em&gt; owl'"
        " data-image-caption='&lt;p&gt;An owl &amp;amp; a mouse&lt;/p&gt;'></p>"
        "<figure data-caption=no><img src=/c.png data-caption=no><figcaption>A cat</figcaption>"
    ).images
    assert fox.caption == "A red fox in snow"
    assert (owl.alt, owl.caption) == ("An owl", "An owl & a mouse")
    assert cat.caption == "A cat"


def test_nearby_text_is_not_that_of_another_image() -> None:
    first, second = read(
        "<div><p><img src=a.png></p><p><img src=b.png>Words of the second one only.</p></div>"
    ).images
    assert first.nearby == ""
    assert second.nearby == "Words of the second one only."


def test_nearby_is_cut() -> None:
    assert len(only(f"<p><img src=a.png>{'word ' * 900}</p>").nearby) == 500


@pytest.mark.parametrize(
    ("srcset", "expected"),
    [
        ("a.png 100w, b.png 800w, c.png 400w", "b.png"),
        ("a.png, b.png 2x, c.png 1.5x", "b.png"),
        ("a.png", "a.png"),
        ("a,b.png 1x,c,d.png 3x", "c,d.png"),
        ("  ,, ", ""),
        ("", ""),
        ("a.png 9x, b.png 10w", "b.png"),
    ],
)
def test_largest_of_a_srcset(srcset: str, expected: str) -> None:
    assert largest(srcset) == expected


@pytest.mark.parametrize(
    "markup",
    [
        "<img src=small.png srcset='small.png 32w, want.png 64w'>",
        "<img src='data:image/gif;base64,R0' data-src=want.png>",
        "<img src=small.png data-srcset='small.png 1x, want.png 2x'>",
        "<img data-original=want.png>",
        "<picture><source srcset='x.avif 900w' type=image/avif>"
        "<source srcset='want.png 300w, b.png 200w' type=image/png><img src=small.png></picture>",
    ],
)
def test_the_largest_and_the_lazy_source_win(markup: str) -> None:
    assert only(markup).url == "http://h.example/rooms/want.png"


def test_an_image_without_a_source_is_none() -> None:
    assert read("<img><img src=''><img src='data:image/png;base64,AA'>").images == ()


@pytest.mark.parametrize(
    ("markup", "fault"),
    [
        ("<img src=a.png width=1 height=1>", "too_small"),
        ("<img src=a.png width=600 height=2>", "too_small"),
        ("<img src=a.png width=100%>", ""),
        ("<div class='page-header'><img src=a.png></div>", ""),
        ("<div class='left sponsored-box'><p><img src=a.png></p></div>", "ads"),
    ],
)
def test_images_not_worth_fetching(markup: str, fault: str) -> None:
    assert only(markup).fault == fault


def test_a_licence_in_the_foot_covers_the_page() -> None:
    images = read(f"<img src=a.png><p><img src=b.png></p><footer>{MIT}</footer>").images
    assert [image.licence.id for image in images] == ["MIT", "MIT"]
    assert images[0].licence.evidence == "https://opensource.org/license/mit"


def test_a_licence_in_the_head_covers_the_page() -> None:
    page = read(
        "<head><link rel=license href=https://creativecommons.org/publicdomain/zero/1.0/></head>"
        "<body><img src=a.png></body>"
    )
    assert page.images[0].licence.id == "CC0-1.0"


def test_a_figures_licence_covers_that_figure_alone() -> None:
    images = read(f"<figure><img src=a.png></figure><figure><img src=b.png>{BY}</figure>").images
    assert [image.licence.id for image in images] == ["unknown", "CC-BY-4.0"]


def test_the_nearest_licence_wins() -> None:
    images = read(
        f"<div><img src=a.png></div><div><img src=b.png>{BY}</div><footer>{MIT}</footer>"
    ).images
    assert [image.licence.id for image in images] == ["MIT", "CC-BY-4.0"]


def test_an_unknown_licence_is_not_replaced_by_the_pages() -> None:
    own = "<a rel=license href=/terms>terms</a>"
    images = read(f"<div><img src=a.png>{own}</div><footer>{MIT}</footer>").images
    assert images[0].licence.id == "unknown"
    assert images[0].licence.evidence == "http://h.example/terms"


def test_two_licences_are_none() -> None:
    assert only(f"<img src=a.png><footer>{MIT}{BY}</footer>").licence.id == "unknown"


def test_links() -> None:
    page = read(
        "<base href='http://h.example/de/'><a href=a.html>One</a><a href=a.html#x>again</a>"
        f"<a href=b.html><img src=b.png alt='a fox'></a><a href=c.png>picture</a>{MIT}"
        "<a href=javascript:x()>no</a><a>none</a>"
    )
    assert [(link.url, link.anchor) for link in page.links] == [
        ("http://h.example/de/a.html", "One again"),
        ("http://h.example/de/b.html", "a fox"),
    ]


def test_ads_and_metas_are_counted() -> None:
    page = read(
        "<meta name=robots content=noai><body><div class=ad></div><p class='ads shadow'></p>"
        "<p class=header></p>"
    )
    assert page.ads == 2
    assert page.metas == (("robots", "noai"),)


def test_squeeze_leaves_nothing_that_cannot_be_stored() -> None:
    assert squeeze(" a\x00b \ud800c\n\td ") == "a b c d"


@given(st.binary(max_size=300))
@example(b"<div>" * 3000)
@example(b"<img src='http://[' srcset=',,'><a href='http://['><base href='//['>")
@example(b"\xff\xfe<\x00i\x00m\x00g\x00")
@example(b"<?xml version='1.0' encoding='nonsense'?><img src=a width=\xb2>")
def test_arbitrary_bytes_never_raise_anything_else(body: bytes) -> None:
    for html in (body, b"<html><body><img src=a.png alt='" + body, b"<a href='" + body):
        try:
            page = parse_page(html, URL)
        except Unparsable:
            continue
        page.text.encode("utf-8")
        for image in page.images:
            assert image.url.startswith(("http://", "https://"))


@given(st.text(max_size=100), st.sampled_from(["utf-8", "latin-1", "utf-16", "nonsense", None]))
def test_any_declared_encoding_is_survived(text: str, encoding: str | None) -> None:
    body = text.encode("utf-8", "surrogatepass")
    try:
        parse_page(b"<title>" + body + b"</title><p>" + body, URL, encoding)
    except Unparsable:
        return


ARTICLE = "".join(
    f"<p>Paragraph {n} of the article tells at some length how the outline of icon {n} was drawn, "
    "with a pen of constant weight and rounded corners throughout.</p>" for n in range(6)
)  # fmt: skip


def test_the_main_text_has_no_boilerplate() -> None:
    page = read(
        "<header><p>Site name</p></header><nav><ul><li><a href=/a>Home of everything</a></ul></nav>"
        f"<main><article><h1>Outlines</h1>{ARTICLE}</article></main>"
        "<aside><p>Read next: ten things about fonts</p></aside>"
        "<footer><p>All about us</p></footer>"
    )
    lines = page.text.splitlines()
    assert sum(line.startswith("Paragraph") for line in lines) == 6
    for boilerplate in ("Site name", "Home of everything", "Read next", "All about us"):
        assert boilerplate not in page.text
    assert page.words > len(page.text.split())  # of the whole page


def test_a_gallery_without_prose_keeps_its_captions() -> None:
    figures = "".join(
        f"<figure><img src=/{n}.png><figcaption>Icon of animal {n}</figcaption></figure>"
        for n in range(12)
    )
    page = read(f"<nav><a href=/x>Elsewhere</a></nav><main>{figures}</main><footer>Legal</footer>")
    assert page.text.splitlines() == [f"Icon of animal {n}" for n in range(12)]


@pytest.mark.parametrize(
    ("markup", "fault"),
    [
        ("<nav><img src=a.png></nav>", "boilerplate"),
        ("<header><img src=a.png></header>", "boilerplate"),
        ("<article><header><img src=a.png></header></article>", ""),
        ("<footer><p><img src=a.png></p></footer>", "boilerplate"),
        ("<main><footer><img src=a.png></footer></main>", ""),
        ("<aside><img src=a.png></aside>", "boilerplate"),
        ("<div role=contentinfo><img src=a.png></div>", "boilerplate"),
        ("<div class='site sidebar'><img src=a.png></div>", "boilerplate"),
        ("<div class='article-footer'><img src=a.png></div>", ""),
        ("<body class='has sidebar'><img src=a.png></body>", ""),
        ("<nav><div class=ads><img src=a.png></div></nav>", "boilerplate"),
    ],
)
def test_images_in_boilerplate_have_a_reason(markup: str, fault: str) -> None:
    assert only(markup).fault == fault


def test_lazy_images_in_noscript_and_described_ones_are_found() -> None:
    page = read(
        "<meta property=og:image content=/og.png>"
        '<script type="application/ld+json">{"@type": "ImageObject", "contentUrl": "/ld.png",'
        ' "license": "https://creativecommons.org/licenses/by/4.0/", "name": "A fox"}</script>'
        "<p><noscript><img src=/lazy.png alt='lazy fox'></noscript></p><template><img src=/no.png>"
        "</template>"
    )
    found = {image.url.rpartition("/")[2]: image for image in page.images}
    assert set(found) == {"lazy.png", "og.png", "ld.png"}
    assert found["lazy.png"].alt == "lazy fox"
    assert (found["ld.png"].caption, found["ld.png"].licence.id) == ("A fox", "CC-BY-4.0")


def test_og_image_does_not_hide_what_json_ld_says_of_it() -> None:
    image = only(
        "<meta property=og:image content=/a.png><script type='application/ld+json'>"
        '{"@type": "ImageObject", "contentUrl": "/a.png", "license": "https://spdx.org/licenses/MIT"}'
        f"</script><footer>{BY}</footer>"
    )
    assert image.licence.id == "MIT"


@pytest.mark.parametrize(
    ("body", "declared", "title"),
    [
        ("<title>Füchse</title>".encode("latin-1"), "latin-1", "Füchse"),
        ("<meta charset=latin-1><title>Füchse</title>".encode("latin-1"), None, "Füchse"),
        ("<title>Füchse</title>".encode("utf-16"), "latin-1", "Füchse"),  # its mark is right
        ("<title>Füchse</title>".encode(), None, "Füchse"),
        ("<title>Füchse</title>".encode("cp1252"), None, "Füchse"),
        (b"<title>\x00Fox\x00es</title>", "utf-8", "\ufffdFox\ufffdes"),
        (
            '<?xml version="1.0" encoding="latin-1"?><title>Füchse</title>'.encode(),
            "utf-8",
            "Füchse",
        ),
    ],
)
def test_encodings(body: bytes, declared: str | None, title: str) -> None:
    assert parse_page(body + b"<p>x</p>", URL, declared).title == title


@pytest.mark.parametrize(
    "html",
    [
        "<div>" * 100_000,
        "<a href=/x>x</a>" * 100_000,
        "<ul><li>" * 20_000,
        "<table><tr><td>" * 20_000,
        "<p " + " ".join(f"a{n}=1" for n in range(100_000)) + ">x",
        "<p " + " ".join(f"a{n}='>'" for n in range(100_000)) + ">x",
        "<p " + "/".join(f"a{n}<" for n in range(100_000)),
        "<a " * 400_000,
        "<a b=\"'" * 400_000,
        "<!--" * 100_000,
        "<img src=a.png srcset='" + "a.png 1w, " * 100_000 + "'>",
        "<p>" + "word " * 400_000,
        "<svg>" + "<g>" * 50_000 + "<script>alert(1)</script>",
        "&" * 500_000,
    ],
    ids=lambda html: html[:12],
)
def test_pages_made_to_be_slow_are_not(html: str) -> None:
    start = time.process_time()
    with contextlib.suppress(Unparsable):
        read(html)
    assert time.process_time() - start < 5.0
