// The colour theme: the system's, unless the viewer has chosen light or dark.

const KEY = "tickhound-theme";
const CHOICES = ["auto", "light", "dark"];
const button = document.getElementById("theme");
const system = matchMedia("(prefers-color-scheme: dark)");

// The browser may forbid storage; then the choice lasts as long as the page.
let chosen = "auto";
try {
  const stored = localStorage.getItem(KEY);
  chosen = CHOICES.includes(stored) ? stored : "auto";
} catch { /* Storage is forbidden. */ }

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
  } catch { /* Storage is forbidden. */ }
  apply();
});
system.addEventListener("change", apply);
apply();

/** Returns the current value of a colour of style.css, since a canvas does not resolve variables. */
export function color(name) {
  button.style.setProperty("--probe", `var(--${name})`);
  button.style.outlineColor = "var(--probe)";
  const value = getComputedStyle(button).outlineColor;
  button.style.removeProperty("outline-color");
  button.style.removeProperty("--probe");
  return value;
}
