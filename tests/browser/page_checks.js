// Texts whose contrast is too low, by the rule of WCAG 2: 4.5, or 3 where the letters are large.
const canvas = document.createElement("canvas");
canvas.width = canvas.height = 1;
const context = canvas.getContext("2d", { willReadFrequently: true });
const rgba = (color) => {
  context.clearRect(0, 0, 1, 1);
  context.fillStyle = color;
  context.fillRect(0, 0, 1, 1);
  const [red, green, blue, alpha] = context.getImageData(0, 0, 1, 1).data;
  return [red, green, blue, alpha / 255];
};
const over = (above, below) => [0, 1, 2].map((i) => above[3] * above[i] + (1 - above[3]) * below[i]);
const luminance = (color) => {
  const [red, green, blue] = color.slice(0, 3).map((channel) => {
    const part = channel / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
const backdrop = (element) => {
  const layers = [];
  for (let at = element; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
  return layers.reduceRight((below, above) => over(above, below), [255, 255, 255]);
};
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const failures = [];
let checked = 0;
while (texts.nextNode()) {
  const element = texts.currentNode.parentElement;
  const shown = element.checkVisibility({ visibilityProperty: true, opacityProperty: true });
  if (!texts.currentNode.textContent.trim() || !shown) continue;
  if (element.closest("script, style, title, :disabled, .spoken, .skip")) continue;
  const style = getComputedStyle(element);
  const behind = backdrop(element);
  const ink = rgba(element.namespaceURI.endsWith("svg") ? style.fill : style.color);
  const [light, dark] = [luminance(over(ink, behind)), luminance(behind)].sort((a, b) => b - a);
  const size = parseFloat(style.fontSize);
  const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  const contrast = (light + 0.05) / (dark + 0.05);
  checked += 1;
  if (contrast < (large ? 3 : 4.5)) failures.push(`${texts.currentNode.textContent.trim().slice(0, 40)}: ${contrast.toFixed(2)}`);
}
return [checked, failures];
