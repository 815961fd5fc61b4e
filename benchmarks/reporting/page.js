"use strict";
const form = document.querySelector(".filter");
const marks = document.querySelectorAll("[data-place], [data-model]");

// A row or a figure is shown if each chosen filter matches it or does not apply to it.
function narrow() {
  const chosen = [...new FormData(form)].filter(([, value]) => value);
  let rows = 0, shown = 0;
  for (const mark of marks) {
    const matches = chosen.every(([name, value]) => !(name in mark.dataset) || mark.dataset[name] === value);
    if (mark.namespaceURI.endsWith("svg")) {
      mark.classList.toggle("dimmed", !matches);
    } else {
      mark.hidden = !matches;
    }
    if (mark.closest("#cells")) {
      rows += 1;
      shown += matches;
    }
  }
  form.querySelector("output").value = chosen.length ? `${shown} of ${rows} cells shown` : "";
}
form.addEventListener("input", narrow);
form.addEventListener("reset", () => setTimeout(narrow));

function order(heading) {
  const column = heading.cellIndex;
  const body = heading.closest("table").tBodies[0];
  const direction = heading.ariaSort === "ascending" ? -1 : 1;
  for (const other of heading.parentNode.cells) other.ariaSort = null;
  heading.ariaSort = direction === 1 ? "ascending" : "descending";
  // Entries without a figure stay at the end.
  const key = (row) => row.cells[column].dataset.value;
  const text = (row) => row.cells[column].textContent;
  const compare = (a, b) => {
    const [one, other] = [key(a), key(b)];
    if (one !== undefined && other !== undefined) return direction * (one - other);
    if (one === undefined && other === undefined) return direction * text(a).localeCompare(text(b), "en", { numeric: true });
    return one === undefined ? 1 : -1;
  };
  body.append(...[...body.rows].sort(compare));
}
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => order(button.parentNode));
}

// All tables are printed.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
narrow();
