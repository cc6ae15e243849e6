// The client in a thread of its own, where neither drawing nor scrolling disturbs what is measured.
import { Client } from "./client.js";

let wake = () => {};
const view = {
  visible: true,
  hidden: false, // at any time since the client last set this to false
  async shown() {
    while (!this.visible) await new Promise((resolve) => (wake = resolve));
  },
};

async function start({ memory, visible, ...device }) {
  view.visible = visible;
  const remembered = new Map(memory);
  const show = (event) => postMessage(event);
  const client = new Client({
    ...device,
    show,
    view,
    memory: {
      getItem: (key) => remembered.get(key),
      setItem(key, value) {
        remembered.set(key, value);
        postMessage({ type: "remember", key, value });
      },
    },
    async load({ script, wasm }) {
      show({ type: "runtime" });
      const ort = await import(`/runtime/${script}`);
      ort.env.wasm.numThreads = 1;
      ort.env.wasm.wasmPaths = { wasm: `/runtime/${wasm}` };
      return ort;
    },
  });
  try {
    await alone(() => client.run(), show);
  } catch (error) {
    show({ type: "fatal", text: String(error.message ?? error).split("\n")[0] });
  }
}

/** Two tabs of one browser would disturb each other: the second waits until the first is closed. */
async function alone(run, show) {
  if (!navigator.locks) return run();
  const ran = await navigator.locks.request("measuring", { ifAvailable: true }, async (lock) => {
    if (lock) await run();
    return lock !== null;
  });
  if (ran) return;
  show({ type: "waiting", text: "another tab of this browser is measuring: close one of them" });
  await navigator.locks.request("measuring", run);
}

addEventListener("message", ({ data }) => {
  if (data.type === "start") start(data.device);
  else if (data.type === "view") {
    view.visible = data.visible;
    if (data.visible) wake();
    else view.hidden = true;
  }
});
