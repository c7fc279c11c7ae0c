"""A person at local-slack's web page in Chromium, by Playwright's sync API. It knows the page, but not the bot.

Each step waits for what it needs, and after `patience` seconds fails and names it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Locator, Page, sync_playwright

_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
_NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    return next((path for path in map(shutil.which, _NAMES) if path), None)


@contextmanager
def open_page(
    url: str, *, width: int = 1200, height: int = 900, scale: float = 1.0, patience: float = 15.0
) -> Iterator[Visitor]:
    """Opens local-slack's page in a new browser. A screenshot has `scale` pixels for each of the page's.

    Raises FileNotFoundError if there is no Chromium.
    """
    chromium = find_chromium()
    if chromium is None:
        raise FileNotFoundError(f"no Chromium on PATH: install one of {', '.join(_NAMES)}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=_FLAGS)
        page = browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=scale)
        page.set_default_timeout(patience * 1000)
        page.goto(url)
        page.locator(".composer-input").wait_for()
        try:
            yield Visitor(page)
        finally:
            browser.close()


class Visitor:
    """One tab. `act_as` and `go_to` choose the person and the channel, by the names that are shown."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def act_as(self, real_name: str) -> None:
        self._page.locator(".actas select").last.select_option(label=real_name)

    def go_to(self, name: str) -> None:
        """Opens a channel, direct messages by the person's name, or the App Home by the app's name."""
        self._page.locator(".sidebar-item").filter(has_text=re.compile(rf"{re.escape(name)}$")).click()

    def type(self, line: str) -> None:
        """Types a command or a message into the composer and sends it with Enter."""
        composer = self._page.locator(".main .composer-input")
        composer.fill(line)
        composer.press("Enter")

    def ask(self, line: str) -> str:
        """Types a line, and returns the text of the next message."""
        messages = self._page.locator(".main .msg:visible")
        count = messages.count()
        self.type(line)
        messages.nth(count).wait_for()
        return messages.nth(count).inner_text()

    def attach(self, path: Path, text: str = "") -> None:
        """Sends a file with the composer."""
        self._page.locator(".main .composer input[type=file]").set_input_files(path)
        self._page.locator(".main .composer-input").fill(text)
        self._page.locator(".main .composer-send").click()

    def wait_for(self, text: str, *, seconds: float | None = None) -> None:
        """Waits for a visible message with this text in the channel or thread."""
        timeout = None if seconds is None else seconds * 1000
        self._message(text).wait_for(timeout=timeout)

    def sees(self, text: str) -> bool:
        return self._message(text).count() > 0

    def click(self, button: str, *, inside: str) -> None:
        """Clicks a button of the newest visible message with the text `inside`."""
        self._message(inside).get_by_role("button", name=button, exact=True).click()

    def confirm(self, button: str) -> str:
        """Answers the confirm dialog with one of its buttons, and returns the dialog's text."""
        dialog = self._page.locator("dialog.ours-confirm")
        text = dialog.inner_text()
        dialog.get_by_role("button", name=button, exact=True).click()
        dialog.wait_for(state="detached")
        return text

    def confirm_yes(self) -> None:
        """Answers the confirm dialog with yes, whatever its wording."""
        dialog = self._page.locator("dialog.ours-confirm")
        dialog.locator("button.primary").click()
        dialog.wait_for(state="detached")

    def read(self, text: str) -> str:
        """Returns the whole text of the newest visible message with this text."""
        return self._message(text).inner_text()

    def read_code(self, text: str) -> str:
        """Returns the block of code in the newest visible message with this text."""
        return self._message(text).locator("pre").last.inner_text()

    def open_thread(self, of: str) -> None:
        self._message(of).locator(".thread-summary").click()
        self._page.locator(".thread-pane").wait_for()

    def close_thread(self) -> None:
        self._page.locator(".thread-x").click()

    def wait_for_modal(self, title: str) -> None:
        self._page.locator(".modal-title", has_text=title).wait_for()

    def fill(self, answers: Mapping[str, str | Path]) -> None:
        """Fills the modal's fields by their labels, with the path of a file, a text, or the text of an option."""
        for label, answer in answers.items():
            self._fill(self._field(label), answer)

    def untick(self, field: str, *boxes: str) -> None:
        """Unticks boxes of the modal's field by their texts."""
        for text in boxes:
            self._field(field).get_by_label(text, exact=True).uncheck()

    def ticked(self, field: str) -> int:
        """Counts the ticked boxes of the modal's field."""
        return self._field(field).locator("input[type=checkbox]:checked").count()

    def submit(self) -> None:
        self._page.locator(".modal .modal-btn.primary").click()

    def wait_for_no_modal(self) -> None:
        self._page.locator(".modal").wait_for(state="detached")

    def close_modal(self) -> str:
        """Closes a modal that asks nothing, and returns its text."""
        text = self._page.locator(".modal").inner_text()
        self._page.locator(".modal .modal-btn:not(.primary)").click()
        self.wait_for_no_modal()
        return text

    def complaints(self) -> list[str]:
        """Waits for the modal's first error, and returns all of them."""
        self._page.locator(".modal-error").first.wait_for()
        return self._page.locator(".modal-error").all_inner_texts()

    def press_in_home(self, button: str) -> None:
        self._page.locator(".home").get_by_role("button", name=button, exact=True).click()

    def wait_in_home(self, text: str) -> None:
        self._page.locator(".home", has_text=text).wait_for()

    def broken_images(self) -> list[str]:
        """Returns the addresses of images that could not be loaded."""
        script = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
        addresses: list[str] = self._page.evaluate(script)
        return addresses

    def show(self, text: str) -> None:
        """Scrolls the newest message with this text into view, once its images are loaded."""
        self._page.wait_for_function("[...document.images].every((image) => image.complete)")
        self._message(text).scroll_into_view_if_needed()

    def screenshot(self, path: Path) -> None:
        """Saves what is in view, without the toolbar that follows the mouse."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._page.mouse.move(0, 0)
        self._page.screenshot(path=path)

    def _message(self, text: str) -> Locator:
        return self._page.locator(".msg:visible").filter(has_text=text).last

    def _field(self, label: str) -> Locator:
        exact = self._page.locator(".bk-label", has_text=re.compile(rf"^{re.escape(label)}$"))
        return self._page.locator(".modal .bk-input").filter(has=exact)

    def _fill(self, field: Locator, answer: str | Path) -> None:
        if isinstance(answer, Path):
            field.locator("input[type=file]").set_input_files(answer)
        elif field.locator("select:visible").count():
            field.locator("select:visible").select_option(label=answer)
        elif field.locator("input[type=radio], input[type=checkbox]").count():
            field.get_by_label(answer, exact=True).check()
        else:
            field.locator("input:visible").fill(answer)
