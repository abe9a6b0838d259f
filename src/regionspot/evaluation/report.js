/* Sorts tables by a click on a heading, filters pictures, and selects a method in all of them. The
   page reads whole without it. */
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.querySelectorAll("th").forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[column].textContent.trim();
      const compare = (a, b) => {
        const [x, y] = [value(a), value(b)].map((text) => text.replaceAll(",", ""));
        if (x === "-" || y === "-") return (x === "-") - (y === "-"); // undefined figures last
        const difference = Number(x) - Number(y);
        const order = Number.isNaN(difference) ? x.localeCompare(y) : difference;
        return down ? -order : order;
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
}
for (const bar of document.querySelectorAll("form.filter")) {
  bar.hidden = false;
  const figures = bar.parentElement.querySelectorAll("figure");
  const count = bar.querySelector("output");
  const apply = () => {
    const text = bar.elements.name.value.trim().toLowerCase();
    const kind = bar.elements.kind.value;
    let shown = 0;
    for (const figure of figures) {
      const method = figure.querySelector(".switch input:checked")?.value ?? "0";
      const fits = [...figure.querySelectorAll(`.names.n${method} li`)].some((name) =>
        (kind === "all" || name.classList.contains(kind)) &&
        name.textContent.toLowerCase().includes(text));
      figure.hidden = !fits;
      shown += fits;
    }
    count.textContent = `${shown} of ${figures.length} pictures`;
  };
  bar.elements.method?.addEventListener("input", () => {
    const radios = document.querySelectorAll(`.switch input[value="${bar.elements.method.value}"]`);
    for (const radio of radios) radio.checked = true;
  });
  bar.parentElement.addEventListener("input", apply);
  bar.addEventListener("submit", (event) => event.preventDefault());
  apply();
}
