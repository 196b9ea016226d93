"use strict";
{
  // Filters: a section or row fits unless an attribute of its own is another than the one that is wanted.
  const form = document.getElementById("filters");
  const sections = [...document.querySelectorAll("section.result")];

  function apply() {
    const wanted = Object.fromEntries([...form.querySelectorAll("select")].map((select) => [select.name, select.value]));
    const fitsAll = ({ dataset }) =>
      Object.keys(wanted).every((name) => !wanted[name] || !(name in dataset) || dataset[name] === wanted[name]);
    let shown = 0, all = 0;
    for (const section of sections) {
      const fits = fitsAll(section);
      let left = 0;
      for (const row of section.querySelectorAll("tr[data-arm]")) {
        row.hidden = !fitsAll(row);
        if (row.closest(".sortable")) {
          left += !row.hidden;
          all += 1;
        }
      }
      section.hidden = !fits || left === 0;
      shown += section.hidden ? 0 : left;
      const link = document.querySelector(`nav a[href="#${section.id}"]`);
      if (link) link.parentElement.hidden = section.hidden;
    }
    document.getElementById("shown").textContent = `${shown} of ${all} rows shown`;
  }

  form.hidden = sections.length === 0;
  form.addEventListener("change", apply);
  form.addEventListener("reset", () => setTimeout(apply));
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();

  // Sorting: by number where a cell has one, then by text; cells without a number come last in both directions.
  function compare(first, second, sign) {
    const keys = [first, second].map((cell) => (cell.dataset.key ? Number(cell.dataset.key) : NaN));
    if (keys.every((key) => !Number.isNaN(key))) return sign * (keys[0] - keys[1]);
    if (keys.some((key) => !Number.isNaN(key))) return Number.isNaN(keys[0]) ? 1 : -1;
    return sign * first.textContent.localeCompare(second.textContent);
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const titles = [...table.tHead.rows[0].cells];
    titles.forEach((title, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...title.childNodes);
      title.append(button);
      button.addEventListener("click", () => {
        const ascending = title.getAttribute("aria-sort") !== "ascending";
        for (const other of titles) other.removeAttribute("aria-sort");
        title.setAttribute("aria-sort", ascending ? "ascending" : "descending");
        const rows = [...table.tBodies[0].rows];
        rows.sort((a, b) => compare(a.cells[column], b.cells[column], ascending ? 1 : -1));
        table.tBodies[0].append(...rows);
      });
    });
  }
}
