// What a person sees of the device, and what the device remembers when the page is closed.

const find = (id) => document.getElementById(id);
const token = location.hash.slice(1);
const state = { worker: null, started: 0, measured: 0, labels: new Map(), progress: null, results: [] };

find("label").value = localStorage.getItem("label") ?? "";
find("label").addEventListener("change", () => {
  localStorage.setItem("label", find("label").value.trim());
  start();
});
for (const input of document.getElementsByName("provider")) {
  input.addEventListener("change", () => {
    localStorage.setItem("provider", input.value);
    start();
  });
}
addEventListener("hashchange", () => location.reload());
addEventListener("pagehide", release);
addEventListener("pageshow", ({ persisted }) => persisted && start());
document.addEventListener("visibilitychange", () => {
  state.worker?.postMessage({ type: "view", visible: !document.hidden });
  stayAwake();
});
setInterval(showTimeLeft, 1000);

const gpu = await describeGpu();
if (gpu) {
  document.querySelector("[value=webgpu]").disabled = false;
  const chosen = new URLSearchParams(location.search).get("provider") ?? localStorage.getItem("provider");
  document.querySelector(`[value=${chosen === "webgpu" ? "webgpu" : "wasm"}]`).checked = true;
}
find("hint").textContent = [
  gpu ? "" : isSecureContext ? "This browser has no WebGPU." : "WebGPU needs HTTPS or localhost.",
  crossOriginIsolated ? "" : "The clock is coarse here; measuring takes longer.",
].filter(Boolean).join(" ");
start();

/** Begin, or begin again as another device. */
async function start() {
  state.worker?.terminate();
  if (!token) return fail("this address has no token: open the one that `supernet device serve` prints");
  Object.assign(state, { started: 0, measured: 0, results: [] });
  const provider = document.querySelector("[name=provider]:checked").value;
  const worker = new Worker("worker.js", { type: "module" });
  state.worker = worker;
  worker.addEventListener("message", ({ data }) => worker === state.worker && events[data.type](data));
  worker.addEventListener("error", (error) => fail(error.message || "the measuring thread cannot start"));
  worker.postMessage({
    type: "start",
    device: {
      address: location.origin,
      token,
      provider,
      hardware: await describeHardware(provider),
      browser: describeBrowser(),
      memory: ["client", "unsent"].map((key) => [key, localStorage.getItem(key)]),
      visible: !document.hidden,
    },
  });
  stayAwake();
}

/** Give back what is not measured, so that another client can have it at once. */
function release() {
  state.worker?.terminate();
  const headers = { Authorization: `Bearer ${token}`, "X-Client": localStorage.getItem("client") ?? "" };
  fetch("/api/release", { method: "POST", keepalive: true, headers, body: "" }).catch(() => {});
}

const events = {
  hello(welcome) {
    find("title").textContent = welcome.title;
    find("name").textContent = welcome.device;
    find("description").textContent = welcome.description.slice(welcome.device.length + 2);
    clearError();
    showProgress(welcome.progress);
  },
  runtime: () => say("loading onnxruntime-web, 14 to 27 MB the first time"),
  progress: ({ progress }) => showProgress(progress),
  loading({ job }) {
    chip("measuring", "busy");
    state.labels.set(job.key, job.label);
    say(`loading ${job.key}`);
  },
  measuring({ jobs, purpose }) {
    state.started ||= Date.now();
    clearError();
    chip("measuring", "busy");
    const why = purpose === "final" ? ", all that are compared in one session" : "";
    say(`measuring ${jobs.length} network${jobs.length === 1 ? "" : "s"} side by side, in random order${why}`);
    find("turns").value = 0;
    find("turns").hidden = false;
    find("networks").replaceChildren(...jobs.map(({ key, label }) => element("li", element("code", key), element("span", label))));
  },
  turn: ({ share }) => (find("turns").value = share),
  posted({ results, refused, progress }) {
    const added = results.filter((result) => result.new);
    state.measured += added.length;
    state.results = [...(added.length ? added : results).reverse(), ...state.results].slice(0, 12);
    find("here").textContent = state.measured;
    if (state.results.length) find("results").replaceChildren(...state.results.map(resultRow));
    if (refused.length) warn(refused[0]);
    showProgress(progress);
  },
  waiting({ text }) {
    if (state.progress?.finished) {
      chip("all measured", "good");
      say("Everything planned is measured, and the server does not answer any more: this page can be closed.");
      return;
    }
    chip("waiting", "bad");
    warn(`${text}. What was measured is kept.`);
  },
  error: ({ text }) => warn(text),
  fatal: ({ text }) => fail(text),
  remember({ key, value }) {
    try {
      localStorage.setItem(key, value);
    } catch {
      localStorage.removeItem(key); // too large for it: kept only while the page is open
    }
  },
};

function showProgress(progress) {
  state.progress = progress;
  const { total, done, failed, finished } = progress;
  find("done").textContent = done;
  find("total").textContent = total;
  find("failed").textContent = failed;
  find("all").value = total ? (done + failed) / total : 0;
  if (finished) {
    chip("all measured", "good");
    say("Everything planned is measured. New plans are measured as soon as they are made, while this page is open.");
    find("networks").replaceChildren();
    find("turns").hidden = true;
  }
  showTimeLeft();
}

function showTimeLeft() {
  if (!state.progress) return;
  const { total, done, failed } = state.progress;
  const left = total - done - failed;
  const each = state.measured ? (Date.now() - state.started) / 1000 / state.measured : NaN;
  const beside = state.progress.side_by_side;
  find("eta").textContent = left === 0 ? (beside ? `${beside} once more, side by side` : "nothing") : Number.isNaN(each) ? "–" : `about ${duration(left * each)}`;
}

function resultRow({ key, latency, interval }) {
  const share = (interval[1] - interval[0]) / 2 / latency;
  return element("tr", element("td", element("code", key)), element("td", time(latency)), element("td", `${(share * 100).toFixed(1)} %`));
}

function element(name, ...children) {
  const made = document.createElement(name);
  made.append(...children); // strings become text, never markup
  return made;
}

function time(seconds) {
  const [value, unit] = seconds < 1e-3 ? [seconds * 1e6, "µs"] : seconds < 1 ? [seconds * 1e3, "ms"] : [seconds, "s"];
  return `${value.toPrecision(3)} ${unit}`;
}

function duration(seconds) {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

const say = (text) => (find("doing").textContent = text);

function chip(text, kind) {
  find("state").textContent = text;
  find("state").className = `chip ${kind}`;
}

function warn(text) {
  find("error").textContent = text;
  find("error").hidden = false;
}

const clearError = () => (find("error").hidden = true);

function fail(text) {
  chip("stopped", "bad");
  say("nothing is being measured");
  warn(text);
}

/** Model, system and cores as far as the browser tells; the person may add what it does not. */
async function describeHardware(provider) {
  const hints = ["model", "platform", "platformVersion", "architecture", "bitness"];
  const told = (await navigator.userAgentData?.getHighEntropyValues?.(hints).catch(() => null)) ?? {};
  const system = told.platform
    ? [told.model, told.platform, told.platformVersion, [told.architecture, told.bitness].filter(Boolean).join(" ")]
    : [/\(([^)]*)\)/.exec(navigator.userAgent)?.[1] ?? "unknown system"];
  const cores = navigator.hardwareConcurrency ? [`${navigator.hardwareConcurrency} cores`] : [];
  const parts = [find("label").value.trim(), ...system, ...cores, provider === "webgpu" ? gpu : ""];
  return parts.map((part) => part?.trim()).filter(Boolean).join(", ");
}

function describeBrowser() {
  const brands = (navigator.userAgentData?.brands ?? []).filter(({ brand }) => !/not.?a.?brand/i.test(brand));
  const { brand, version } = brands.find(({ brand }) => brand !== "Chromium") ?? brands[0] ?? {};
  if (brand) return `${brand} ${version}`;
  const agent = navigator.userAgent;
  const [, name, major] = /(Firefox|Edg|Chrome|Version)\/(\d+)/.exec(agent) ?? [null, "browser", ""];
  return `${name === "Version" ? "Safari" : name} ${major}`.trim();
}

async function describeGpu() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  if (!adapter) return "";
  const { vendor, architecture, description } = adapter.info ?? {};
  return [vendor, architecture, description].filter(Boolean).join(" ") || "GPU";
}

async function stayAwake() {
  if (!document.hidden) await navigator.wakeLock?.request("screen").catch(() => {});
}
