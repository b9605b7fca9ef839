"use strict";
// Sorting by a click on a header; filtering by text, task, pattern and size. No text of a record becomes HTML here.

const texts = new Intl.Collator("en", { numeric: true });

function key(body, column) {
  const cell = body.rows[0].cells[column];
  const text = cell.textContent.trim();
  if (text === "-" || text === "") return null;
  const number = Number(cell.dataset.number ?? text.replaceAll(",", ""));
  return { text, number, tie: Number(cell.dataset.tie ?? 0) };
}

function compare(a, b) {
  if (Number.isNaN(a.number) || Number.isNaN(b.number)) return texts.compare(a.text, b.text);
  return a.number - b.number || a.tie - b.tie;
}

function sort(table, header) {
  const up = header.getAttribute("aria-sort") !== "ascending";
  const rows = [...table.tBodies].map((body) => [key(body, header.cellIndex), body]);
  const missing = rows.filter(([value]) => value === null); // last, whichever way the others go
  const known = rows.filter(([value]) => value !== null);
  known.sort(([a], [b]) => (up ? compare(a, b) : compare(b, a)));
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  table.append(...[...known, ...missing].map(([, body]) => body));
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const header of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(table, header));
    header.append(button);
  }
}

const form = document.getElementById("filter");
if (form) {
  const sections = [...document.querySelectorAll("section.group")].map((section) => {
    const title = section.querySelector("h2, h3").textContent;
    const rows = [...section.querySelector("table").tBodies].map((body) => {
      const hashes = [...body.querySelectorAll("dd code")].map((code) => code.textContent);
      const words = hashes.filter((text) => !text.includes(" ")); // without commands, which name other families as well
      const why = body.querySelector(".why")?.textContent ?? "";
      return [body, [title, body.rows[0].textContent, why, ...words].join(" ").toLowerCase()];
    });
    return { section, rows, link: document.querySelector(`[data-for="${section.id}"]`) };
  });
  const total = sections.reduce((sum, { rows }) => sum + rows.length, 0);

  const filter = () => {
    const words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = ["task", "pattern", "size"].map((name) => [name, form.elements[name].value]);
    let shown = 0;
    let tables = 0;
    for (const { section, rows, link } of sections) {
      const fits = chosen.every(([name, value]) => value === "" || section.dataset[name] === value);
      let here = 0;
      for (const [body, text] of rows) {
        body.hidden = !(fits && words.every((word) => text.includes(word)));
        if (!body.hidden) here += 1;
      }
      section.hidden = here === 0;
      link.hidden = section.hidden;
      shown += here;
      if (here) tables += 1;
    }
    form.querySelector("output").value = `${shown} of ${total} rows, in ${tables} of ${sections.length} tables`;
  };
  form.addEventListener("input", filter);
  form.addEventListener("change", filter); // some browsers report a chosen option in this way only
  form.addEventListener("submit", (event) => event.preventDefault());
  form.querySelector("button").addEventListener("click", () => {
    form.reset();
    filter();
  });
  form.hidden = false;
  filter();
}
