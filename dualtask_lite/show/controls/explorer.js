// Fills a figure with the frame of the knobs' setting. Frames made ahead are looked up; else `ask` is called for one,
// and while it is on its way only the newest setting waits, so that a drag never runs behind the hand.
const mount = (root, setup, ask) => {
  const knobs = [...root.querySelectorAll(".knobs input, .knobs select")];
  const stage = root.querySelector(".stage"), numbers = root.querySelector(".numbers");
  const words = root.querySelector(".words");
  const place = knob => knob.tagName === "SELECT" ? knob.selectedIndex : Number(knob.value);
  const many = knob => knob.tagName === "SELECT" ? knob.options.length : Number(knob.max) + 1;
  const make = (tag, className = "", text = "") => {
    const element = document.createElement(tag);
    element.className = className;
    element.textContent = text;
    return element;
  };
  const write = (element, text) => element.textContent === text || (element.textContent = text);
  // A panel is made once: a step changes what it shows, so that the browser lays out and draws no more than that.
  const makePanel = () => {
    const box = make("div", "panel"), title = make("h4"), frame = make("div", "frame"), scale = make("div", "scale");
    const image = new Image(), canvas = make("canvas"), ends = [make("span"), make("span")], bar = make("i");
    // Outlines are drawn by the processor: where there is no graphics card, the browser needs several times as long.
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    image.alt = "";
    image.decoding = "sync";
    frame.append(image, canvas);
    scale.append(ends[0], bar, ends[1]);
    box.append(title, frame, scale);
    const outline = ({ sides, lines }) => {
      const dense = window.devicePixelRatio;
      canvas.width = dense * frame.clientWidth;  // which empties it
      canvas.height = dense * frame.clientHeight;
      const onScreen = new DOMMatrix().scale(canvas.width / sides[0] / 10, canvas.height / sides[1] / 10);
      for (const rim of [true, false])  // all rims lie under all lines
        for (const [name, line] of Object.entries(lines)) {
          const look = setup.looks[name], path = new Path2D();
          path.addPath(new Path2D(line), onScreen);
          pen.setLineDash(look.dashes.split(" ").map(length => dense * length));
          pen.lineWidth = dense * (rim ? 4 : 2);
          pen.strokeStyle = rim ? "rgb(0, 0, 0, 0.45)" : look.colour;
          pen.stroke(path);
        }
    };
    const draw = (panel, images) => {
      write(title, panel.title);
      if (image.src !== images[panel.image]) image.src = images[panel.image];
      outline(panel);
      scale.hidden = !panel.ends;
      ends.forEach((end, i) => write(end, panel.ends ? panel.ends[i] : ""));
      bar.style.background = "linear-gradient(to right, " + panel.colours + ")";
    };
    return { box, draw };
  };
  const panels = setup.frames[0].panels.map(makePanel);
  stage.append(...panels.map(panel => panel.box));
  stage.setAttribute("role", "img");
  let drawAgain = () => {};
  const show = (frame, images) => {
    drawAgain = () => panels.forEach((panel, i) => panel.draw(frame.panels[i], images));
    drawAgain();
    stage.setAttribute("aria-label", frame.words);
    numbers.replaceChildren(...frame.numbers.map(([name, value]) => {
      const pair = make("p");
      pair.append(make("span", "", name + " "), make("strong", "", value));
      return pair;
    }));
    words.textContent = frame.words;
  };
  new ResizeObserver(() => drawAgain()).observe(stage);
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
    busy = false;
    if (waiting) {
      waiting = false;
      turned();
    }
    show(answer.frames[0], setup.images.concat(answer.images));
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
