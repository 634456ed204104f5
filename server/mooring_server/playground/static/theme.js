// Light or dark: the system's choice until the reader makes one. Runs before the page is drawn.

(() => {
  const KEY = "mooring.theme";
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const stored = () => {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // storage is switched off: the choice lasts as long as the page
    }
  };
  const show = (theme) => {
    document.documentElement.dataset.theme = theme;
    dispatchEvent(new Event("themechange"));
  };
  show(stored() ?? (dark.matches ? "dark" : "light"));
  dark.addEventListener("change", () => stored() ?? show(dark.matches ? "dark" : "light"));
  window.toggleTheme = () => {
    const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // as above
    }
    show(theme);
  };
})();
