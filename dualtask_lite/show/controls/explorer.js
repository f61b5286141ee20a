// Fills a figure with the frame of the knobs' setting. Frames made ahead are looked up; else `ask` is called for one,
// and while it is on its way only the newest setting waits, so that a drag never runs behind the hand.
const SVG = "http://www.w3.org/2000/svg";
const mount = (root, setup, ask) => {
  const knobs = [...root.querySelectorAll(".knobs input, .knobs select")];
  const stage = root.querySelector(".stage"), numbers = root.querySelector(".numbers");
  const words = root.querySelector(".words"), pictures = {};
  const place = knob => knob.tagName === "SELECT" ? knob.selectedIndex : Number(knob.value);
  const many = knob => knob.tagName === "SELECT" ? knob.options.length : Number(knob.max) + 1;
  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    element.className = className;
    element.textContent = text || "";
    return element;
  };
  const picture = url => {
    const image = pictures[url] || new Image();
    image.decoding = "sync";
    image.alt = "";
    image.src = url;
    return ask ? image : (pictures[url] = image);
  };
  const draw = (panel, images) => {
    const box = make("div", "panel"), frame = make("div", "frame");
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", "0 0 " + panel.sides.map(side => 10 * side).join(" "));
    svg.setAttribute("preserveAspectRatio", "none");
    for (const [name, line] of Object.entries(panel.lines))
      for (const rim of [true, false]) {
        const path = document.createElementNS(SVG, "path");
        path.setAttribute("d", line);
        if (rim) path.setAttribute("class", "rim");
        else {
          path.setAttribute("stroke", setup.looks[name].colour);
          path.setAttribute("stroke-dasharray", setup.looks[name].dashes || "none");
        }
        svg.append(path);
      }
    frame.append(picture(images[panel.image]), svg);
    box.append(make("h4", "", panel.title), frame);
    if (panel.ends) {
      const scale = make("div", "scale"), bar = make("i", "");
      bar.style.background = "linear-gradient(to right, " + panel.colours + ")";
      scale.append(make("span", "", panel.ends[0]), bar, make("span", "", panel.ends[1]));
      box.append(scale);
    }
    return box;
  };
  const show = (frame, images) => {
    stage.replaceChildren(...frame.panels.map(panel => draw(panel, images)));
    stage.setAttribute("role", "img");
    stage.setAttribute("aria-label", frame.words);
    numbers.replaceChildren(...frame.numbers.map(([name, value]) => {
      const pair = make("p", "");
      pair.append(make("span", "", name + " "), make("strong", "", value));
      return pair;
    }));
    words.textContent = frame.words;
  };
  let busy = false, waiting = false;
  const turned = () => {
    for (const knob of knobs)
      if (knob.dataset.texts) {
        const text = JSON.parse(knob.dataset.texts)[place(knob)];
        knob.setAttribute("aria-valuetext", text);
        knob.nextElementSibling.textContent = text;
      }
    if (!ask) {
      const at = knobs.reduce((sum, knob) => sum * many(knob) + place(knob), 0);
      show(setup.frames[at], setup.images);
    } else if (busy) waiting = true;
    else {
      busy = true;
      ask(knobs.map(place));
    }
  };
  const answered = answer => {
    show(answer.frames[0], answer.images);
    busy = false;
    if (waiting) {
      waiting = false;
      turned();
    }
  };
  root.querySelector(".still").remove();
  root.querySelector(".live").hidden = false;
  root.addEventListener("input", turned);
  if (ask) show(setup.frames[0], setup.images);
  else turned();
  return answered;
};
const renderLive = async ({ model, el }) => {
  const root = document.createElement("figure");
  root.className = "dualtask-explorer";
  root.innerHTML = model.get("inside");
  el.append(root);
  const setup = model.get("setup"), answers = await model.widget_manager.get_model(setup.answers);
  let asked = 0;  // numbered, for the answer to a setting asked twice would be no change
  const answered = mount(root, setup, at => model.send({ at, number: ++asked }));
  const heard = () => answered(JSON.parse(answers.get("value")));
  answers.on("change:value", heard);
  return () => answers.off("change:value", heard);
};
