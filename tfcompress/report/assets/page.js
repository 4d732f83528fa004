"use strict";
(() => {
  const specs = JSON.parse(document.getElementById("charts").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  let views = [];

  // Colours are given as names of CSS variables, so that the theme has one home.
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
      ticks: false, labelPadding: 6, labelLimit: Math.round(Math.min(180, width * 0.34)),
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

  const draw = async (element) => {
    const style = getComputedStyle(document.documentElement);
    const spec = themed(specs[Number(element.dataset.chart)], style);
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
      views.push(await vegaEmbed(element, spec, options));
      connect(document.getElementById(`${element.id}-legend`), views.at(-1).view);
      element.dataset.state = "drawn";
    } catch (error) {
      element.dataset.state = "failed";
      element.textContent = "This chart could not be drawn; the tables have its numbers.";
      console.error(error);
    }
  };

  const drawAll = async () => {
    views.forEach((view) => view.finalize());
    views = [];
    for (const element of document.querySelectorAll("[data-chart]")) await draw(element);
    document.documentElement.dataset.charts = "done";
  };

  dark.addEventListener("change", drawAll);
  drawAll();
})();
