"""A page without a mouse: Tab by Tab, and what each stop shows."""

from __future__ import annotations

from dataclasses import dataclass

from playwright.sync_api import Page

# More than any view has: who needs more of them is held somewhere, or goes round in a ring.
MOST_STOPS = 80
STOP = """() => {
  const stop = document.activeElement;
  if (stop === document.body) return null;
  const ringed = (each) => {
    const style = getComputedStyle(each);
    return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
  };
  const box = stop.getBoundingClientRect();
  return {
    name: stop.getAttribute("aria-label") ?? stop.labels?.[0]?.textContent ?? stop.textContent,
    inSight: box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth,
    // The ring of a file's input is around the area that it is in.
    ringed: ringed(stop) || (stop.type === "file" && ringed(stop.closest(".drop"))),
  };
}"""


@dataclass(frozen=True, slots=True)
class Keyboard:
    page: Page

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def stop(self) -> str | None:
        """The name of what has the focus, which is seen to have it; None between two rounds."""
        found = self.page.evaluate(STOP)
        if found is None:
            return None
        name: str = found["name"].strip()
        assert found["inSight"], f"the focus is out of sight: {name}"
        assert found["ringed"], f"nothing shows the focus: {name}"
        return name

    def tab(self) -> str | None:
        self.press("Tab")
        return self.stop()

    def go_to(self, name: str) -> None:
        """To the next stop whose name begins so."""
        passed = []
        for _ in range(MOST_STOPS):
            passed.append(self.tab())
            if (passed[-1] or "").startswith(name):
                return
        raise AssertionError(f"no way to {name!r} by Tab: {passed}")

    def choose(self, name: str, key: str = "Enter") -> None:
        self.go_to(name)
        self.press(key)

    def round(self) -> list[str]:
        """All stops from here until this one comes again."""
        begin = self.stop()
        names = [begin or ""]
        for _ in range(MOST_STOPS):
            name = self.tab()
            if name == begin:
                return names
            if name is not None:
                names.append(name)
        raise AssertionError(f"Tab does not come round to {begin!r}: {names}")
