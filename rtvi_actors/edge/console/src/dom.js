// Elements without markup in strings: nothing that a server says is ever parsed as HTML.

// element("p", { class: "hint", "aria-label": "x" }, "text", child): an element; null attributes are left out.
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

export const byId = (id) => document.getElementById(id);

export const milliseconds = (seconds) => `${Math.round(seconds * 1000)} ms`;
