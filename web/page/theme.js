// Takes the reader's choice of light or dark before anything is drawn, so that the page does not flash.
//
// A plain script in the head, because modules wait for the document.

(() => {
  let theme = null;
  try {
    theme = localStorage.getItem("giemsa.theme");
  } catch {
    // Storage is switched off: the system's choice stands.
  }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();
