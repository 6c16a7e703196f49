// Colors and copying: what every page has.
(() => {
  const theme = document.getElementById("theme");
  // empty: what the style sheet says, which is what the system asks for
  const paint = () => { document.documentElement.style.colorScheme = theme.value; };
  theme.addEventListener("change", paint);
  theme.closest(".theme").hidden = false;
  paint();

  const select = (element) => {
    const range = document.createRange();
    range.selectNodeContents(element);
    const selection = getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
  };

  for (const button of document.querySelectorAll(".copy")) {
    const source = document.getElementById(button.dataset.copy);
    const status = document.createElement("span");
    status.setAttribute("role", "status");
    button.after(status);
    button.hidden = false;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(source.textContent);
        status.textContent = "Copied";
      } catch {
        // some browsers keep the clipboard from a page that is a file
        select(source);
        status.textContent = "Selected: copy it with Ctrl+C or ⌘C";
      }
    });
  }
})();
