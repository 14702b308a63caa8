// Light or dark: as the system has it, unless the viewer has chosen.

const KEY = "tickhound-theme";
const CHOICES = ["auto", "light", "dark"];
const button = document.getElementById("theme");
const system = matchMedia("(prefers-color-scheme: dark)");

// A browser may forbid pages to remember anything; then the choice lasts as long as the page.
let chosen = "auto";
try {
  const kept = localStorage.getItem(KEY);
  chosen = CHOICES.includes(kept) ? kept : "auto";
} catch { /* as above */ }

function apply() {
  document.documentElement.dataset.theme = chosen;
  button.textContent = { auto: "◐ auto", light: "○ light", dark: "● dark" }[chosen];
  button.setAttribute("aria-label", `colours: ${chosen}; press to change`);
  dispatchEvent(new Event("themechange"));
}

button.addEventListener("click", () => {
  chosen = CHOICES[(CHOICES.indexOf(chosen) + 1) % CHOICES.length];
  try {
    localStorage.setItem(KEY, chosen);
  } catch { /* as above */ }
  apply();
});
system.addEventListener("change", apply);
apply();

/** The value of a colour of style.css as it is now; a canvas knows no variables. */
export function color(name) {
  button.style.setProperty("--probe", `var(--${name})`);
  button.style.outlineColor = "var(--probe)";
  const found = getComputedStyle(button).outlineColor;
  button.style.removeProperty("outline-color");
  button.style.removeProperty("--probe");
  return found;
}
