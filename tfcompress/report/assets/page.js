"use strict";
(() => {
  const specs = JSON.parse(document.getElementById("charts").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const views = new Map();

  // Colors are given as names of CSS variables, so that the theme has one home.
  const themed = (value, style) => {
    if (typeof value === "string" && value.startsWith("--")) {
      const color = style.getPropertyValue(value).trim();
      return color || value;
    }
    if (Array.isArray(value)) return value.map((item) => themed(item, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(
        Object.entries(value).map(([key, item]) =>
          [key, key === "values" ? item : themed(item, style)]));
    }
    return value;
  };

  const config = (width, font) => themed({
    background: "transparent",
    aria: false, // the figure's label and table speak for the picture
    font,
    view: { stroke: null },
    axis: {
      labelColor: "--muted", titleColor: "--muted", labelFontSize: 12, titleFontSize: 12,
      titleFontWeight: "normal", titlePadding: 8, titleLimit: 220, gridColor: "--line", domain: false,
      ticks: false, labelPadding: 6, labelLimit: Math.round(Math.min(260, width * 0.42)),
    },
    axisY: { grid: true },
    axisBand: { grid: false },
    legend: {
      labelColor: "--muted", titleColor: "--muted", labelFontSize: 12, titleFontSize: 12,
      titleFontWeight: "normal", titleLimit: width * 0.6, offset: 10,
    },
  }, getComputedStyle(document.documentElement));

  // A pressed button of the legend makes its marks stand out.
  const connect = (legend, view) => {
    const buttons = legend ? [...legend.querySelectorAll("button")] : [];
    const show = () => {
      const pressed = buttons.find((button) => button.ariaPressed === "true");
      view.signal("picked", pressed ? pressed.dataset.name : "").run();
    };
    for (const button of buttons) {
      button.onclick = () => {
        const press = button.ariaPressed !== "true";
        for (const other of buttons) other.ariaPressed = String(press && other === button);
        show();
      };
    }
    show();
  };

  // The figures that the reader has put on the axes of a chart.
  const withAxes = ({ spec, axes }, element) => {
    const lists = document.getElementById(`${element.id}-axes`);
    if (!lists) return spec;
    const [x, y] = ["x", "y"].map((axis) =>
      Number(lists.querySelector(`[data-axis=${axis}]`).value));
    const [across, upward] = [axes.figures[x], axes.figures[y]];
    const best = axes.best[`${x},${y}`] || [];
    const values = axes.models.map((model, i) => ({
      model,
      x: across.values[i],
      y: upward.values[i],
      best: best.includes(i),
      text: `${upward.texts[i]}, ${across.texts[i]}`,
    })).filter((value) => value.x !== null && value.y !== null);
    return { ...spec, data: { values }, encoding: { ...spec.encoding, x: across.x, y: upward.y } };
  };

  const draw = async (element) => {
    const style = getComputedStyle(document.documentElement);
    const spec = themed(withAxes(specs[Number(element.dataset.chart)], element), style);
    const binding = document.getElementById(`${element.id}-binding`);
    binding.replaceChildren();
    const options = {
      actions: false,
      renderer: "svg",
      config: config(element.clientWidth, getComputedStyle(document.body).fontFamily),
      bind: binding,
      tooltip: { theme: dark.matches ? "dark" : "light" },
    };
    try {
      views.get(element)?.finalize();
      const drawn = await vegaEmbed(element, spec, options);
      views.set(element, drawn);
      // The label of the figure and the tables speak for the picture.
      element.querySelector("svg")?.setAttribute("aria-hidden", "true");
      connect(document.getElementById(`${element.id}-legend`), drawn.view);
      element.dataset.state = "drawn";
    } catch (error) {
      element.dataset.state = "failed";
      element.textContent = "This chart could not be drawn; the tables have its numbers.";
      console.error(error);
    }
  };

  const drawAll = async () => {
    for (const element of document.querySelectorAll("[data-chart]")) await draw(element);
    document.documentElement.dataset.charts = "done";
  };

  for (const list of document.querySelectorAll(".axes select")) {
    const element = document.getElementById(list.closest(".axes").id.replace("-axes", ""));
    list.addEventListener("change", () => draw(element));
  }

  // On paper the tables are open.
  window.addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
  });

  dark.addEventListener("change", drawAll);
  drawAll();
})();
