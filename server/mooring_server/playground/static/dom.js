// Building the page's elements. Children are elements or text; text is only ever put in as text.

export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) {
    if (attribute === "class") made.className = value;
    else if (attribute.startsWith("on")) made.addEventListener(attribute.slice(2), value);
    else if (value === true) made.setAttribute(attribute, "");
    else if (value !== false && value !== null) made.setAttribute(attribute, value);
  }
  made.append(...children);
  return made;
}

export const $ = (id) => document.getElementById(id);

// A number as it is written, with the number itself for whoever reads the page by program.
export function figure(value, written) {
  return el("data", { value: value ?? "" }, written);
}
