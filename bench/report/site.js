"use strict";
{
  // Two runs side by side: the rows that both have, with the ratio of their speeds.
  const form = document.getElementById("pair");
  const rows = [...document.querySelectorAll("#all tr[data-same]")];
  const table = document.querySelector("#two table");
  const said = document.getElementById("common");

  function cell(name, text) {
    const made = document.createElement(name);
    made.textContent = text;
    if (name === "th") made.scope = "row";
    return made;
  }

  function of(run) {
    return new Map(rows.filter((row) => row.dataset.run === run).map((row) => [row.dataset.same, row]));
  }

  function show() {
    const [first, second] = [...form.querySelectorAll("select")].map((select) => select.value);
    const before = of(first), after = of(second);
    const common = first && second && first !== second ? [...before.keys()].filter((same) => after.has(same)) : [];
    table.tBodies[0].replaceChildren(...common.map((same) => {
      const pair = [before.get(same), after.get(same)];
      const speeds = pair.map((row) => row.querySelector("td"));
      const [one, other] = pair.map((row) => row.querySelector("td[data-key]"));
      const ratio = Number(other.dataset.key) / Number(one.dataset.key);
      const line = document.createElement("tr");
      line.append(
        cell("th", pair[0].cells[0].textContent), cell("td", speeds[0].textContent), cell("td", one.textContent),
        cell("td", other.textContent), cell("td", one.dataset.key && other.dataset.key ? ratio.toPrecision(3) : ""),
      );
      return line;
    }));
    table.hidden = common.length === 0;
    const chosen = first && second && first !== second;
    said.textContent = !chosen ? "Choose two runs." : common.length === 0
      ? "These two have no row in common: another task, preset, size, arm or version of the measurement."
      : `With intervals and a verdict: framework-bench compare results/${first} results/${second}`;
  }

  document.getElementById("two").hidden = rows.length === 0;
  form.addEventListener("change", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  show();
}
