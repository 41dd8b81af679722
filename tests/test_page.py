"""The page of the service in a real browser, Debian's Chromium, as a person uses it."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from serving import Service, serving
from zoo import saved, scene

from melanoma.inference.predict import Predictor
from melanoma.inference.words import Details, in_percent
from melanoma.runs import Run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
RESEARCH = "Research use only. Not a medical device. Not for diagnosis."
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def service(judged: Run) -> Iterator[Service]:
    with serving(judged.folder) as service:
        yield service


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, service: Service) -> Iterator[Page]:
    """The page as it opens; at the end, nothing was wrong in its console and nobody else was asked."""
    yield from opened(browser, service)


def opened(browser: Browser, service: Service, **options: Any) -> Iterator[Page]:
    context = browser.new_context(viewport=options.pop("viewport", DESKTOP), **options)
    page, told, asked = context.new_page(), [], []
    page.on("console", lambda message: told.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.on("filechooser", lambda chooser: None)  # from now on: the first key could be too quick for it
    page.goto(service.address)
    expect(page.locator("#model")).to_be_visible()
    yield page
    context.close()
    # the browser itself reports an answer of 4xx, which the page shows as a sentence
    assert not [line for line in told if "status of 422" not in line]
    assert all(url.startswith((service.address, "data:")) for url in asked), asked


@pytest.fixture(scope="module")
def pictures(lesions: list[Path], judged: Run, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Lesions that are assessed, of different scores, the highest not first."""
    found = Predictor(judged.folder).answer(lesions[:40], maps=False)
    assessed = [(one.score, path) for one, path in zip(found, lesions, strict=False) if one.score is not None]
    (_, low), *_, (_, middle), (_, high) = sorted(assessed)
    folder = tmp_path_factory.mktemp("pictures")
    return [Path(shutil.copy(path, folder / name)) for name, path in zip("bac", (low, high, middle), strict=True)]


def give(page: Page, *files: Path | dict[str, Any]) -> None:
    carried: list[Any] = [
        {"name": one.name, "mimeType": "image/jpeg", "buffer": one.read_bytes()} if isinstance(one, Path) else one
        for one in files
    ]
    page.locator("#files").set_input_files(carried)


def cards(page: Page, count: int) -> Locator:
    """The cards, once there are so many and all are answered."""
    expect(page.locator("#progress")).to_contain_text(f"{count} of {count} answered", timeout=30_000)
    found = page.locator("article")
    expect(found).to_have_count(count)
    return found


def shown(page: Page, name: str) -> None:
    """Keep what the page looks like, where the folder PAGE_PICTURES asks for it."""
    if folder := os.environ.get("PAGE_PICTURES"):
        page.wait_for_timeout(300)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


# ---- one picture -----------------------------------------------------------------------------------------------------


def test_a_picture_gets_its_probability_on_a_scale_with_words_and_quality(
    page: Page, pictures: list[Path], judged: Run
) -> None:
    give(page, pictures[0])
    card = cards(page, 1).first
    (answer,) = Predictor(judged.folder).answer(pictures[0], maps=False)
    assert answer.probability is not None
    expect(card.locator(".number")).to_have_text(f"{100 * answer.probability:.1f} %")
    expect(card.locator(".words")).to_have_text(answer.words)
    expect(card.locator(".quality")).to_contain_text(f"fit to be judged ({answer.width} × {answer.height} pixels)")
    label = card.locator(".scale svg").get_attribute("aria-label")
    assert label is not None and f"this picture at {100 * answer.probability:.1f} %" in label
    assert "The point that found" in label
    expect(page.locator("#worth")).to_contain_text("AUC")
    expect(page.locator("#limits li").first).to_be_visible()
    shown(page, "one")


def test_the_map_lies_over_the_picture_as_much_as_the_slider_says(page: Page, pictures: list[Path]) -> None:
    give(page, pictures[1])
    card = cards(page, 1).first
    over, slider = card.locator(".map"), card.locator(".opacity")
    assert over.evaluate("one => getComputedStyle(one).opacity") == "0"
    expect(card.locator(".note")).to_be_hidden()
    slider.fill("70")
    assert slider.get_attribute("aria-valuetext") == "70 % of the map"
    assert over.evaluate("one => getComputedStyle(one).opacity") == "0.7"
    edges = card.evaluate(  # of both at one moment: a page that still moves would tell them apart
        """one => ['.map', '.picture'].map(name => {
            const box = one.querySelector(name).getBoundingClientRect();
            return [box.left, box.top, box.right, box.bottom];
        })"""
    )
    assert edges[0] == pytest.approx(edges[1], abs=0.5)
    assert over.evaluate("one => one.naturalWidth") == 32
    expect(card.locator(".note")).to_contain_text("proves nothing")
    shown(page, "map")


def test_a_file_that_is_no_picture_is_told_why_and_the_others_are_answered(page: Page, pictures: list[Path]) -> None:
    give(page, {"name": "letter.jpg", "mimeType": "image/jpeg", "buffer": b"Dear colleague"}, pictures[0])
    found = cards(page, 2)
    expect(found.nth(0).locator(".number")).to_contain_text("%")
    expect(found.nth(1)).to_contain_text("letter.jpg is no JPEG, PNG, WEBP, TIFF, BMP or DICOM file")
    expect(found.nth(1).locator(".judged")).to_be_hidden()
    expect(page.locator("#progress")).to_contain_text("1 could not be read")
    shown(page, "bad-file")


def test_a_picture_of_no_lesion_is_shown_without_a_probability_and_with_the_reason(page: Page) -> None:
    give(page, {"name": "scene.png", "mimeType": "image/png", "buffer": saved(scene(200, 200), "PNG")})
    card = cards(page, 1).first
    expect(card.locator(".badge")).to_have_text("Not assessable")
    expect(card.locator(".quality")).to_contain_text("This picture is not judged (200 × 200 pixels): ")
    expect(card.locator(".probability")).to_be_hidden()
    expect(card.locator("figcaption")).to_be_hidden()
    shown(page, "not-assessable")


def test_a_name_that_is_markup_is_shown_as_text(page: Page, pictures: list[Path]) -> None:
    name = "<img src=x onerror=document.title='broken'>.jpg"
    give(page, {"name": name, "mimeType": "image/jpeg", "buffer": pictures[0].read_bytes()})
    expect(cards(page, 1).first.locator("h3")).to_have_text(name)
    assert page.title() == "melanoma"


def test_a_name_that_turns_letters_round_breaks_lines_or_never_ends_is_one_short_plain_line(
    page: Page, pictures: list[Path]
) -> None:
    turned, long = "lesion\u202egpj.exe\u2066\nline\ttab\0.jpg", "x" * 5000 + ".jpg"
    for name in (turned, long):
        page.evaluate(
            """([bytes, name]) => {
                const carried = new DataTransfer();
                carried.items.add(new File([new Uint8Array(bytes)], name, { type: "image/jpeg" }));
                document.querySelector("#drop").dispatchEvent(
                    new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true }));
            }""",
            [list(b"no picture"), name],
        )
    found = cards(page, 2)
    told = found.all_text_contents()
    assert "lesion?gpj.exe??line?tab?.jpg" in told[0]
    for text in (*told, page.locator("#progress").text_content() or ""):
        assert not {"\u202e", "\u2066", "\0"} & set(text)
        assert "x" * 121 not in text
    assert page.evaluate("document.documentElement.scrollWidth") <= DESKTOP["width"]


# ---- several, and other ways in --------------------------------------------------------------------------------------


def test_lesions_of_one_patient_stand_side_by_side_the_highest_score_first(page: Page, pictures: list[Path]) -> None:
    give(page, *pictures)
    found = cards(page, 3)
    expect(found.locator("h3")).to_have_text(["a", "c", "b"])
    expect(found.locator(".rank")).to_have_text([f"{place} of 3, highest score first" for place in (1, 2, 3)])
    page.wait_for_timeout(300)  # cards appear within a quarter of a second
    boxes = [found.nth(place).bounding_box() for place in range(3)]
    assert len({box["y"] for box in boxes if box}) == 1, "side by side"
    shown(page, "several")
    found.nth(0).get_by_role("button", name="Remove a").click()
    expect(found.locator("h3")).to_have_text(["c", "b"])
    expect(found.locator(".rank").first).to_have_text("1 of 2, highest score first")
    page.get_by_role("button", name="Remove all").click()
    expect(page.locator("#answers")).to_be_hidden()


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_picture_can_be_dropped_or_pasted(page: Page, pictures: list[Path], way: str) -> None:
    page.evaluate(
        """([bytes, way]) => {
            const carried = new DataTransfer();
            carried.items.add(new File([new Uint8Array(bytes)], "carried.jpg", { type: "image/jpeg" }));
            const event = way === "drop"
                ? new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true })
                : new ClipboardEvent("paste", { clipboardData: carried, bubbles: true });
            document.querySelector("#drop").dispatchEvent(event);
        }""",
        [list(pictures[0].read_bytes()), way],
    )
    expect(cards(page, 1).first.locator("h3")).to_have_text("carried.jpg")


def test_a_photograph_can_be_taken_by_the_camera_behind_the_phone(page: Page, pictures: list[Path]) -> None:
    assert page.locator("#camera").get_attribute("capture") == "environment"
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Take a photograph").click()
    chooser.value.set_files(pictures[0])
    cards(page, 1)


def test_another_age_and_another_prevalence_change_what_is_shown(page: Page, pictures: list[Path], judged: Run) -> None:
    predictor = Predictor(judged.folder)
    give(page, pictures[0])
    number = cards(page, 1).first.locator(".number")
    told = [number.text_content()]
    known = {}
    fields = (("Age, years", "90", 90, "age_years"), ("Melanomas among such lesions, %", "0.5", 0.005, "prevalence"))
    for label, typed, value, name in fields:
        page.get_by_label(label).fill(typed)
        with page.expect_response("**/explain") as answered:
            page.get_by_label(label).press("Tab")
        known[name] = value
        (expected,) = predictor.answer(pictures[0], Details(**known), maps=False)
        found = answered.value.json()["answer"]
        assert found["probability"] == pytest.approx(expected.probability, abs=1e-6)
        expect(number).to_have_text(in_percent(found["probability"]))
        told.append(number.text_content())
    assert told[2] != told[1]
    expect(page.locator("#prevalence-hint")).to_contain_text("Probabilities hold where 0.5 %")


def test_with_an_age_that_cannot_be_nothing_is_asked_and_nothing_old_is_shown(page: Page, pictures: list[Path]) -> None:
    give(page, pictures[0])
    card = cards(page, 1).first
    field = page.get_by_label("Age, years")
    field.fill("400")
    field.press("Tab")
    assert field.evaluate("one => !one.checkValidity()")
    expect(card.locator(".badge")).to_have_text("Waiting")
    expect(card.locator(".probability")).to_be_hidden()
    field.fill("40")
    field.press("Tab")
    expect(card.locator(".probability")).to_be_visible()


def test_a_service_that_is_gone_is_a_sentence_and_no_old_answer_stays(
    browser: Browser, judged: Run, pictures: list[Path]
) -> None:
    page = browser.new_context().new_page()
    with serving(judged.folder) as service:
        page.goto(service.address)
        expect(page.locator("#model")).to_be_visible()
        give(page, pictures[0])
        cards(page, 1)
    page.get_by_label("Age, years").fill("50")
    page.get_by_label("Age, years").press("Tab")
    expect(page.locator("article")).to_contain_text("the service cannot be reached")
    expect(page.locator("#trouble")).to_be_visible()
    expect(page.locator("article .probability")).to_be_hidden()
    expect(page.locator("article .judged")).to_be_hidden()
    page.context.close()


# ---- hands, ears, eyes, sizes ----------------------------------------------------------------------------------------


def test_everything_can_be_done_by_keyboard_alone(page: Page, pictures: list[Path]) -> None:
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the pictures")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Choose pictures")).to_be_focused()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(pictures[:2])
    found = cards(page, 2)
    tabbed_to(page, found.nth(0).get_by_role("button", name="Remove"))
    page.keyboard.press("Tab")
    slider = found.nth(0).get_by_role("slider", name="Where the network looked")
    expect(slider).to_be_focused()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert found.nth(0).locator(".map").evaluate("one => one.style.opacity") == "0.2"
    assert page.evaluate("document.activeElement.matches(':focus-visible')")
    tabbed_to(page, found.nth(1).get_by_role("button", name="Remove"))
    page.keyboard.press("Enter")
    expect(page.locator("article")).to_have_count(1)
    expect(page.get_by_role("button", name="Remove all")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Choose pictures")).to_be_focused()


def tabbed_to(page: Page, wanted: Locator) -> None:
    for _ in range(40):
        if wanted.evaluate("one => one === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError("it cannot be reached by Tab")


def test_a_screen_reader_hears_what_was_answered(page: Page, pictures: list[Path]) -> None:
    give(page, pictures[0])
    cards(page, 1)
    card = page.locator("article")
    heard = f"1 of 1 answered. b: {card.locator('.badge').text_content()}, {card.locator('.number').text_content()}."
    expect(page.get_by_role("status")).to_have_text(heard)
    expect(page.get_by_role("article", name="b")).to_be_visible()
    expect(page.get_by_role("img", name="Scale of probabilities")).to_be_visible()
    expect(page.get_by_role("button", name="Remove b")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("size", "viewport"), [("desktop", DESKTOP), ("phone", PHONE)])
def test_the_page_fits_and_can_be_read_light_and_dark_on_desktop_and_phone(
    browser: Browser, service: Service, pictures: list[Path], scheme: str, size: str, viewport: dict[str, int]
) -> None:
    for page in opened(browser, service, viewport=viewport, color_scheme=scheme):
        expect(page.get_by_text(RESEARCH)).to_be_in_viewport()
        shown(page, f"empty-{size}-{scheme}")
        picture = {"name": "scene.png", "mimeType": "image/png", "buffer": saved(scene(200, 200), "PNG")}
        letter = {"name": "letter.jpg", "mimeType": "image/jpeg", "buffer": b"Dear colleague"}
        give(page, *pictures, picture, letter)
        found = cards(page, 5)
        found.nth(0).locator(".opacity").fill("60")
        page.mouse.wheel(0, 600)
        expect(page.get_by_text(RESEARCH)).to_be_in_viewport()
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        page.wait_for_timeout(300)  # cards appear within a quarter of a second, and are judged when they stand
        violations = Axe().run(page).response["violations"]
        assert not violations, [(one["id"], one["nodes"][0]["html"]) for one in violations]
        shown(page, f"answers-{size}-{scheme}")


def test_a_large_photograph_is_shown_small_and_answered(page: Page, pictures: list[Path]) -> None:
    large = Image.open(pictures[0]).resize((4000, 3000))
    give(page, {"name": "large.jpg", "mimeType": "image/jpeg", "buffer": saved(large, "JPEG")})
    card = cards(page, 1).first
    expect(card.locator(".quality")).to_contain_text("4000 × 3000 pixels")
    assert card.locator(".picture").evaluate("one => one.naturalWidth") <= 640
