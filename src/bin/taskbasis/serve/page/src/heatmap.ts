// The coefficients as a table of colours: tasks by groups.

import { byId, element } from "./dom.js";
import { Mixture, number } from "./mixture.js";
import { groupName } from "./sliders.js";

export function drawHeatMap(mixture: Mixture): void {
  const head = mixture.groups.map((group) => element("th", { scope: "col" }, groupName(group)));
  const rows = mixture.tasks.map((task, index) => {
    const cells = mixture.row(index).map((value) => {
      const cell = element("td", {}, number(value));
      // Blue above, orange below zero; the number is what tells.
      cell.style.setProperty("--size", `${Math.round(Math.min(Math.abs(value), 1) * 100)}%`);
      cell.classList.add(value < 0 ? "below" : "above");
      return cell;
    });
    return element("tr", {}, element("th", { scope: "row" }, task), ...cells);
  });
  byId("heat-map").replaceChildren(
    element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "task"), ...head)),
    element("tbody", {}, ...rows),
  );
}
