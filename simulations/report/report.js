"use strict";
/* Draws what stands in the page as JSON: `simulations.report.figures` says what is in it. */

const run = JSON.parse(document.getElementById("data").textContent);
const end = run.seconds;
const buckets = run.flying.length;
const COLORS = ["up", "partly", "cut", "starting", "closing", "stopped", "paused", "down"];
const THIN = new Set(["stopped", "down"]);

const at = id => document.getElementById(id);
const many = value => value.toLocaleString("en-US");
const seconds = value => value.toFixed(3) + " s";
const greatest = values => values.reduce((a, b) => Math.max(a, b), 0);
const ESCAPED = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"};
const safe = text => String(text).replace(/[&<>"]/g, c => ESCAPED[c]);

/* One element as text: its attributes, and what is inside. */
function tag(name, attributes, inside = "") {
  const list = Object.entries(attributes).map(([key, value]) => ` ${key}="${safe(value)}"`);
  return `<${name}${list.join("")}>${inside}</${name}>`;
}

// ---------------------------------------------------------------- who is hit

const short = name => name.replace(/^replica-/, "");
const inOrder = (a, b) => a - b || (a < b ? -1 : 1);
const list = names => [...names].map(short).sort(inOrder).join(" ");

/* Hosts as they are; ways as two groups where all ways between these are hit: "1 3 | 2 4 5". */
function targets(all) {
  if (!all[0].includes(">")) {
    return all.length > 1 && all.length === run.replicas.length ? "everybody" : all.join(", ");
  }
  const from = new Map();
  for (const [a, b] of all.map(way => way.split(">"))) from.set(a, [...(from.get(a) || []), b]);
  const [left, right] = [...from][0];
  const group = [...from.keys()].filter(name => list(from.get(name)) === list(right));
  const both = all.includes(`${right[0]}>${left}`);
  if (group.length * right.length * (both ? 2 : 1) === all.length) {
    return `${list(group)} ${both ? "|" : "→"} ${list(right)}`;
  }
  return [...from].map(([a, others]) => `${short(a)} → ${list(others)}`).join("; ");
}

// ---------------------------------------------------------------- words and tables

function fill() {
  document.title = `${run.scenario} ${run.seed}: ${run.verdict}`;
  at("title").textContent = `${run.scenario}, seed ${run.seed}`;
  at("verdict").textContent = run.verdict;
  at("verdict").classList.toggle("failed", run.violations.length > 0);
  at("meaning").textContent = run.meaning;
  at("differs").hidden = run.same;
  at("command").textContent = run.command;
  at("trace").textContent = run.trace_hash;
  at("copy").onclick = async () => {
    await navigator.clipboard.writeText(run.command);
    at("copy").textContent = "Copied";
  };
  const figures = [
    ["replicas", "replicas", many(run.replicas.length)],
    ["faultcount", "faults", many(run.faults.length)],
    ["seconds", "simulated seconds", many(run.seconds)],
    ["healed", "until all agreed", run.healed === null ? "never" : run.healed.toFixed(1) + " s"],
    ["frames", "frames written", many(run.frames)],
    ["messages", "messages sent", many(run.messages)],
    ["bytes", "kilobytes sent", many(Math.round(run.bytes / 1000))],
    ["eventcount", "events in the trace", many(run.events)],
  ];
  at("figures").innerHTML = figures.map(([id, name, value]) =>
    tag("div", {}, tag("dt", {}, name) + tag("dd", {id}, value))).join("");
  at("violations").innerHTML = run.violations.length ? violations() : "";
  const used = new Set(Object.values(run.lanes).flatMap(lane => lane.states.map(one => one[1])));
  at("legend").innerHTML = run.states.map((name, kind) => used.has(kind)
    ? `<i style="background:var(--${COLORS[kind]})"></i>${name}` : "").join("");
  const rows = run.faults.map(one => [
    one.number, seconds(one.begin), seconds(one.end), one.kind, targets(one.targets), one.meaning,
  ]);
  at("faults").innerHTML = table(["#", "from", "until", "fault", "whom", ""], rows);
  at("events").innerHTML = table(["event", "times", ""], run.counts.map(([kind, times, meaning]) =>
    [kind, many(times), meaning]));
}

function table(heads, rows) {
  const line = (kind, cells) => tag("tr", {}, cells.map(one => tag(kind, {}, safe(one))).join(""));
  return line("th", heads) + rows.map(row => line("td", row)).join("");
}

/* The first one with the events before it; as a rule the others have the same cause. */
function violations() {
  const [first, ...rest] = run.violations;
  const say = one => `<b>✗ ${safe(one.invariant)}</b> at ${seconds(one.at)}: ${safe(one.message)}`;
  const all = some => tag("ul", {}, some.map(one => tag("li", {}, say(one))).join(""));
  const now = line => Math.abs(parseFloat(line) - first.at) < 1e-6;
  const lines = first.before.map(line => now(line) ? tag("mark", {}, safe(line)) : safe(line));
  const more = tag("summary", {}, `and ${rest.length - 4} more`) + all(rest.slice(4));
  return tag("section", {class: "violation"}, [
    "<h2>What did not hold</h2>",
    tag("div", {id: "first"}, say(first)),
    lines.length ? "<p>The events before it, and at that moment:</p>" : "",
    lines.length ? tag("pre", {}, lines.join("\n")) : "",
    all(rest.slice(0, 4)),
    rest.length > 4 ? tag("details", {}, more) : "",
  ].join(""));
}

// ---------------------------------------------------------------- the chart

const LEFT = 128, RIGHT = 18, BAR = 13, LAG = 26, LANE = 51, ROW = 17, PANEL = 78;
let view = [0, end];
let width = 0;
let lanes = [];  // where each is drawn
let out = [];    // what is drawn so far
let y = 0;       // down to where

const x = t => LEFT + (t - view[0]) / (view[1] - view[0]) * (width - LEFT - RIGHT);
const time = px => view[0] + (px - LEFT) / (width - LEFT - RIGHT) * (view[1] - view[0]);
const clip = t => Math.min(Math.max(t, view[0]), view[1]);
const visible = (from, to = from) => to >= view[0] && from <= view[1];
const bucket = t => Math.min(buckets - 1, Math.max(0, Math.floor(t / run.width)));

const put = (name, attributes, inside) => out.push(tag(name, attributes, inside));
const label = (kind, text, below) =>
  put("text", {class: kind, x: LEFT - 10, y: below, "text-anchor": "end"}, text);
const upright = (t, attributes) => put("line", {x1: x(t), x2: x(t), ...attributes});
const rule = height =>
  put("line", {x1: LEFT, x2: width - RIGHT, y1: height, y2: height, stroke: "var(--rule)"});
const key = color => tag("tspan", {style: `fill:var(--${color})`}, "■");

function head(text, unit = "") {
  put("text", {class: "head", x: 0, y: y + 12}, text + tag("tspan", {class: "unit", dx: 8}, unit));
  y += 22;
}

/* The most that there was in each pixel; null where there was nothing to count. */
function* pixels(values) {
  for (let px = LEFT; px < width - RIGHT; px++) {
    const from = bucket(time(px)), to = Math.max(from + 1, bucket(time(px + 1)));
    const some = values.slice(from, to).filter(one => one !== null);
    yield [px, some.length ? greatest(some) : null];
  }
}

/* An outline in steps, upwards from `base`, or downwards if `height` is negative. */
function area(values, base, height, most, color) {
  let path = "", open = false, last = null;
  for (const [px, value] of pixels(values)) {
    if (value === last) continue;
    last = value;
    if (value === null) path += `H${px}V${base}Z`;
    else {
      path += open ? `H${px}` : `M${px} ${base}`;
      path += `V${(base - value / most * height).toFixed(1)}`;
    }
    open = value !== null;
  }
  put("path", {d: open ? `${path}H${width - RIGHT}V${base}Z` : path, fill: `var(--${color})`});
}

function draw() {
  width = Math.max(600, at("chart").getBoundingClientRect().width);
  out = [];
  lanes = [];
  const top = y = run.violations.length ? 44 : 22;
  if (run.faults.length) faults();
  head("Replicas", `state, and ${key("lag")} operations that others have and it has not`);
  const most = Math.max(1, ...Object.values(run.lanes).map(lane => greatest(lane.lag)));
  for (const [name, lane] of Object.entries(run.lanes)) replica(name, lane, most);
  y += 6;
  flights();
  divergence();
  const bottom = y - 8, above = out;
  out = [];
  phases(top, bottom);
  ticks(top, bottom);
  out = out.concat(above);
  flags(bottom);
  put("line", {id: "cross", y1: top, y2: bottom, visibility: "hidden"});
  put("rect", {id: "chosen", y: top, height: bottom - top, width: 0});
  at("chart").setAttribute("viewBox", `0 0 ${width} ${bottom + 24}`);
  at("chart").innerHTML = out.join("");
  at("whole").hidden = view[0] === 0 && view[1] === end;
}

/* A row for each kind; more where faults of a kind overlap. */
function faults() {
  head("Faults");
  for (const kind of run.kinds) {
    const rows = [];
    for (const fault of run.faults.filter(one => one.kind === kind)) {
      const row = rows.find(one => one[one.length - 1].end <= fault.begin);
      if (row) row.push(fault);
      else rows.push([fault]);
    }
    rows.forEach((row, number) => {
      if (number === 0) label("", kind, y + 11);
      row.filter(one => visible(one.begin, one.end)).forEach(bar);
      y += ROW;
    });
  }
  y += 12;
}

function bar(fault) {
  const left = x(clip(fault.begin)), size = Math.max(2.5, x(clip(fault.end)) - left);
  put("rect", {
    class: "fault", "data-fault": fault.number,
    x: left, y: y + 1, width: size, height: ROW - 3, rx: 2.5,
  });
  const texts = [targets(fault.targets), "#" + fault.number];
  const text = texts.find(one => one.length * 6.6 + 10 < size);
  if (text) put("text", {class: "inside", x: left + 5, y: y + 12}, safe(text));
}

function replica(name, lane, most) {
  const peak = greatest(lane.lag), base = y + BAR + 3 + LAG, before = out;
  out = [];
  label("name", safe(name), y + 11);
  label("unit", peak ? `≤ ${many(peak)} behind` : "never behind", y + BAR + 18);
  lane.states.forEach(([from, kind], index) => {
    const to = index + 1 < lane.states.length ? lane.states[index + 1][0] : buckets;
    const [a, b] = [from, to].map(one => one * run.width), color = COLORS[kind];
    if (!visible(a, b)) return;
    const [left, right] = [x(clip(a)), x(clip(Math.min(b, end)))], thin = THIN.has(color) ? 4 : 0;
    put("rect", {
      x: left, y: y + thin, width: Math.max(1, right - left), height: BAR - 2 * thin,
      fill: `var(--${color})`,
    });
  });
  rule(base);
  area(lane.lag, base, LAG, most, "lag");
  const drawn = tag("g", {class: "lane", "data-name": name}, out.join(""));
  out = before;
  out.push(drawn);
  lanes.push({name, top: y - 3, bottom: base + 6});
  y += LANE;
}

/* On their way upwards, held downwards, on one scale. */
function flights() {
  head("Frames in flight", `${key("flying")} on their way, ${key("held")} held by a cut`);
  const most = Math.max(1, greatest(run.flying), greatest(run.held)), zero = y + PANEL / 2;
  area(run.flying, zero, PANEL / 2, most, "flying");
  label("unit", many(most), y + 9);
  label("unit", 0, zero + 4);
  rule(zero);
  y = zero + 16;
  if (!greatest(run.held)) return;
  area(run.held, zero, -PANEL / 2, most, "held");
  label("unit", many(most), zero + PANEL / 2);
  y += PANEL / 2;
}

function divergence() {
  head("Divergence", `${key("apart")} operations not all have; above: how many different states`);
  const states = Math.max(2, greatest(run.different)), most = Math.max(1, greatest(run.apart));
  let from = LEFT, last = null;
  for (const [px, value] of [...pixels(run.different), [width - RIGHT, null]]) {
    if (value === last) continue;
    const opacity = (Math.max(1, last) - 1) / (states - 1) * 0.9 + 0.1;
    put("rect", {
      x: from, y, width: px - from, height: BAR, fill: "var(--apart)", "fill-opacity": opacity,
    });
    [from, last] = [px, value];
  }
  label("unit", `≤ ${greatest(run.different)} states`, y + 10);
  const zero = y + BAR + 4 + PANEL * 0.7;
  area(run.apart, zero, PANEL * 0.7, most, "apart");
  rule(zero);
  label("unit", many(most), y + BAR + 14);
  label("unit", 0, zero + 3);
  y = zero + 16;
}

/* Where faults are over, and where all agree. */
function phases(top, bottom) {
  const over = run.faults_over;
  if (over >= end) return;
  const left = x(clip(over));
  put("rect", {
    x: left, y: top, width: x(view[1]) - left, height: bottom - top, fill: "var(--shade)",
  });
  const dashed = {class: "phase", y1: top - 14, y2: bottom};
  if (run.healed !== null && visible(over + run.healed)) upright(over + run.healed, dashed);
  if (!visible(over)) return;
  upright(over, dashed);
  const agreed = run.healed === null ? "never agreed" : `agreed after ${run.healed.toFixed(1)} s`;
  const text = `faults are over, ${agreed}`, turned = left + text.length * 6.6 > width;
  const place = {x: left + (turned ? -5 : 5), "text-anchor": turned ? "end" : "start"};
  put("text", {...place, y: top - 5}, text);
}

function ticks(top, bottom) {
  const rough = (view[1] - view[0]) / Math.max(3, (width - LEFT) / 110);
  const ten = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(one => one * ten).find(one => one >= rough);
  for (let n = Math.ceil(view[0] / step); n * step <= view[1]; n++) {
    upright(n * step, {y1: top, y2: bottom, stroke: "var(--line)"});
    const text = `${+(n * step).toFixed(6)} s`;
    put("text", {x: x(n * step), y: bottom + 16, "text-anchor": "middle"}, text);
  }
}

/* A line wherever something did not hold, thick for the first; words where there is room. */
function flags(bottom) {
  const moments = new Map(), words = [];
  for (const one of run.violations) {
    moments.set(one.at, (moments.get(one.at) || new Set()).add(one.invariant));
  }
  let room = 0;
  for (const [t, names] of moments) {
    if (!visible(t)) continue;
    const text = `✗ ${[...names][0]}${names.size > 1 ? ` +${names.size - 1}` : ""}`;
    const size = text.length * 7.4 + 16, left = Math.min(x(t) - 1, width - size);
    const first = t === run.violations[0].at;
    upright(t, {class: "violated", y1: 4, y2: bottom, "stroke-width": first ? 2.5 : 1});
    if (left < room) continue;
    room = left + size + 4;
    words.push(tag("rect", {class: "flag", x: left, y: 2, width: size, height: 19, rx: 3}));
    words.push(tag("text", {class: "flag", x: left + 7, y: 16}, safe(text)));
  }
  out.push(...words);
}

// ---------------------------------------------------------------- hovering and zooming

let dragged = null;  // since which second
let hovered;         // which fault

/* Where the pointer is, as the drawing counts. */
function place(event) {
  const box = at("chart").getBoundingClientRect(), scale = width / box.width;
  return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
}

function tell(event) {
  const [px, py] = place(event), inside = px >= LEFT && px <= width - RIGHT;
  const fault = run.faults.find(one => String(one.number) === event.target.dataset.fault);
  highlight(fault);
  if (!inside) return hide();
  at("cross").setAttribute("visibility", "visible");
  at("cross").setAttribute("x1", px);
  at("cross").setAttribute("x2", px);
  const tip = at("tip");
  const lines = fault ? ofFault(fault) : ofMoment(time(px), py);
  tip.innerHTML = lines.map(one => tag("div", {}, one)).join("");
  tip.style.left = Math.min(event.clientX + 16, innerWidth - tip.offsetWidth - 8) + "px";
  const lowest = innerHeight - tip.offsetHeight - 8;
  tip.style.top = Math.max(8, Math.min(event.clientY + 16, lowest)) + "px";
}

function hide() {
  at("tip").innerHTML = "";
  at("cross").setAttribute("visibility", "hidden");
}

function ofFault(fault) {
  return [
    tag("b", {}, `#${fault.number} ${fault.kind}: ${safe(targets(fault.targets))}`),
    safe(fault.meaning),
    tag("span", {}, `${seconds(fault.begin)} to ${seconds(fault.end)}`),
  ];
}

function ofMoment(t, py) {
  const i = bucket(t), lane = lanes.find(one => py >= one.top && py <= one.bottom);
  const names = lane ? [lane.name] : run.replicas.length <= 9 ? run.replicas : [];
  const active = run.faults.filter(one => one.begin <= t && t <= one.end);
  const failed = run.violations.filter(one => Math.abs(x(one.at) - x(t)) < 4);
  const count = (name, values) => `${tag("span", {}, name)} ${many(values[i])}`;
  const some = active.slice(0, 6).map(one => `#${one.number} ${one.kind}`);
  if (active.length > some.length) some.push("…");
  return [
    tag("b", {}, `${t.toFixed(2)} s`),
    ...failed.slice(0, 3).map(one => tag("b", {class: "bad"}, `✗ ${safe(one.invariant)}`)),
    ...names.map(name => ofReplica(name, i)),
    `${count("frames on their way", run.flying)}, ${count("held", run.held)}`,
    `${count("different states", run.different)}, ${count("apart by", run.apart)}`,
    some.length ? `${tag("span", {}, "faults")} ${some.join(", ")}` : "",
  ];
}

function ofReplica(name, i) {
  const lane = run.lanes[name], [, kind, whom] = lane.states.filter(one => one[0] <= i).pop();
  const from = whom ? ` from ${whom.split(", ").map(short).join(", ")}` : "";
  const lag = lane.lag[i] ? `, ${tag("span", {}, "behind by")} ${many(lane.lag[i])}` : "";
  return safe(`${name}: ${run.states[kind]}${from}`) + lag;
}

/* A fault, with its time and those it hits. */
function highlight(fault) {
  if (hovered === fault) return;
  hovered = fault;
  const names = new Set(fault ? fault.targets.flatMap(one => one.split(">")) : run.replicas);
  for (const lane of document.querySelectorAll(".lane")) {
    lane.style.opacity = names.has(lane.dataset.name) ? 1 : 0.3;
  }
  for (const one of document.querySelectorAll(".fault")) {
    one.style.opacity = !fault || one.dataset.fault === String(fault.number) ? 1 : 0.35;
  }
  if (dragged === null) choose(fault ? [clip(fault.begin), clip(fault.end)] : [0, 0]);
}

function choose([from, to]) {
  at("chosen").setAttribute("x", x(from));
  at("chosen").setAttribute("width", Math.max(0, x(to) - x(from)));
}

function listen() {
  const chart = at("chart"), sorted = (a, b) => [Math.min(a, b), Math.max(a, b)];
  const second = event => clip(time(place(event)[0]));
  const whole = () => { view = [0, end]; draw(); };
  chart.onpointerdown = event => { dragged = event.button === 0 ? second(event) : null; };
  chart.onpointermove = event => {
    tell(event);
    if (dragged !== null) choose(sorted(dragged, second(event)));
  };
  chart.onpointerup = event => {
    const range = dragged === null ? [0, 0] : sorted(dragged, second(event));
    dragged = null;
    choose([0, 0]);
    if (x(range[1]) - x(range[0]) > 8) { view = range; draw(); }
  };
  chart.onpointerleave = () => { dragged = null; highlight(); choose([0, 0]); hide(); };
  chart.ondblclick = at("whole").onclick = whole;
  new ResizeObserver(() => draw()).observe(chart.parentElement);
}

fill();
draw();
listen();
