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
      titleFontWeight: "normal", titlePadding: 8, gridColor: "--line", domain: false,
      ticks: false, labelPadding: 6, labelLimit: Math.round(Math.min(180, width * 0.34)),
    },
    axisY: { grid: true },
    axisBand: { grid: false },
    legend: {
      labelColor: "--ink", titleColor: "--muted", labelFontSize: 12, titleFontSize: 12,
      titleFontWeight: "normal", columns: width < 420 ? 2 : 4, offset: 10, symbolSize: 90,
      labelLimit: Math.round(width < 420 ? width * 0.34 : width * 0.2), columnPadding: 14,
    },
    bar: { minBandSize: 2 },
  }, getComputedStyle(document.documentElement));

  const draw = async (element) => {
    const style = getComputedStyle(document.documentElement);
    const spec = themed(specs[Number(element.dataset.chart)], style);
    const binding = document.getElementById(`${element.id}-binding`);
    const options = {
      actions: false,
      renderer: "svg",
      config: config(element.clientWidth, getComputedStyle(document.body).fontFamily),
      tooltip: { theme: dark.matches ? "dark" : "light" },
    };
    if (binding) {
      binding.replaceChildren();
      options.bind = binding;
    }
    try {
      views.push(await vegaEmbed(element, spec, options));
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
