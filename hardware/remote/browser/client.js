// A device at work: takes networks from the server, measures them with onnxruntime-web, posts every repeat. Page and Node.
import { Campaign } from "./measuring.js";

const PAUSE_SECONDS = 5; // between two questions for work when there is none, and before trying again

/** An answer of the server that says no, in one line. */
class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export class Client {
  /**
   * @param {object} device
   * @param {string} device.address of the server, without a path
   * @param {string} device.token
   * @param {string} device.hardware what this is, for people and for the fingerprint
   * @param {string} device.browser name and major version
   * @param {"wasm" | "webgpu"} device.provider
   * @param {(files: {script: string, wasm: string}) => Promise<object>} device.load the runtime, ready to use
   * @param {(event: object) => void} device.show what to tell the person in front of it
   * @param {{getItem: Function, setItem: Function}} device.memory that outlives this client
   * @param {{hidden: boolean, shown: () => Promise<void>}} device.view whether anybody sees the page
   * @param {boolean} device.untilDone stop when nothing is left
   */
  constructor(device) {
    Object.assign(this, device);
    this.session = "";
  }

  /** For good, or, with `untilDone`, until nothing is left. */
  async run() {
    for (;;) {
      try {
        await this.hello();
        return await this.work();
      } catch (error) {
        if (!(error instanceof Refused && error.status === 410)) throw error;
        await this.memory.setItem("session", ""); // it is over: a new one
      }
    }
  }

  async hello() {
    const { hardware, browser, provider } = this;
    const resumes = (await this.memory.getItem("session")) || null;
    const welcome = await this.insist("hello", { hardware, browser, provider, resumes });
    this.session = welcome.session;
    this.fingerprint = welcome.fingerprint;
    this.sampling = welcome.sampling;
    await this.memory.setItem("session", this.session);
    this.show({ type: "hello", ...welcome });
    this.ort ??= await this.load(welcome.runtime);
    const reference = await this.network(welcome.reference, 1);
    this.campaign = new Campaign(reference.run, this.sampling, () => performance.now(), (share) =>
      this.show({ type: "turn", share }));
    this.pulse = setInterval(() => this.ask("renew").catch(() => {}), (welcome.silence_seconds / 3) * 1000);
    this.pulse.unref?.(); // Node ends although it beats
  }

  async work() {
    try {
      await this.postUnsent();
      for (;;) {
        await this.view.shown();
        const { jobs, level, progress } = await this.insist("lease");
        this.show({ type: "progress", progress });
        if (jobs.length) await this.group(jobs, level);
        else if (this.untilDone && progress.done + progress.failed >= progress.total) return;
        else await pause(PAUSE_SECONDS);
      }
    } finally {
      clearInterval(this.pulse);
    }
  }

  /** Measure a group and post it. */
  async group(jobs, level) {
    const networks = [], failures = [];
    for (const job of jobs) {
      const where = { key: job.key, resolution: job.resolution };
      this.show({ type: "loading", job });
      try {
        networks.push({ where, ...(await this.network(job.key, job.resolution)) });
      } catch (error) {
        if (error instanceof Refused) throw error;
        failures.push({ ...where, reason: firstLine(error) });
      }
    }
    this.show({ type: "measuring", jobs: jobs.filter((job) => networks.some(({ where }) => where.key === job.key)) });
    let posted = { results: [], failures };
    try {
      if (networks.length) {
        const measured = await this.undisturbed(networks, level);
        const results = measured.results.map((result, i) => ({ ...networks[i].where, ...result }));
        const { reference_seconds, reference_started } = measured;
        posted = { reference_seconds, reference_started, results, failures };
      }
    } finally {
      for (const { release } of networks) await release();
    }
    // Kept, should the page be closed before it is posted.
    await this.memory.setItem("unsent", JSON.stringify({ fingerprint: this.fingerprint, posted }));
    await this.postUnsent();
  }

  /** Browsers slow hidden pages down: what was measured meanwhile is measured again. */
  async undisturbed(networks, level) {
    for (;;) {
      await this.view.shown();
      this.view.hidden = false;
      const measured = await this.campaign.measure(networks.map(({ run }) => run), level);
      if (!this.view.hidden) return measured;
    }
  }

  async postUnsent() {
    const unsent = await this.memory.getItem("unsent");
    if (!unsent) return;
    const { fingerprint, posted } = JSON.parse(unsent);
    try {
      if (fingerprint === this.fingerprint) this.show({ type: "posted", ...(await this.insist("results", posted)) });
    } catch (error) {
      if (!(error instanceof Refused) || error.status === 410) throw error;
      this.show({ type: "error", text: error.message });
      if (error.status !== 400) throw error;
    }
    await this.memory.setItem("unsent", "");
  }

  /** A network of the server, loaded; `run(calls)` calls it. Throws where this device cannot run it. */
  async network(key, resolution) {
    const model = await this.insist("model", { key, resolution }, { binary: true });
    const session = await this.ort.InferenceSession.create(new Uint8Array(model), {
      executionProviders: [this.provider],
      graphOptimizationLevel: "all",
    });
    const [{ name, shape }] = session.inputMetadata;
    const values = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => Math.random() * 2 - 1);
    const feeds = { [name]: new this.ort.Tensor("float32", values, shape) };
    const run = async (calls) => {
      for (let call = 0; call < calls; call++) await session.run(feeds);
    };
    try {
      await run(1);
    } catch (error) {
      await session.release();
      throw error;
    }
    return { run, release: () => session.release() };
  }

  /** Ask until the server can be reached. */
  async insist(request, data, options) {
    for (;;) {
      try {
        return await this.ask(request, data, options);
      } catch (error) {
        // 507: its disk is full; nothing of what we have is lost by waiting.
        if (error instanceof Refused && error.status !== 507) throw error;
        this.show({ type: "waiting", text: error instanceof Refused ? error.message : "the server cannot be reached; trying again" });
        await pause(PAUSE_SECONDS);
      }
    }
  }

  async ask(request, data = null, { binary = false } = {}) {
    const answer = await fetch(`${this.address}/api/${request}`, {
      method: "POST",
      headers: { Authorization: `Bearer ${this.token}`, "X-Session": this.session },
      body: data === null ? "" : JSON.stringify(data),
    });
    if (binary && answer.ok) return answer.arrayBuffer();
    const content = await answer.json();
    if (!answer.ok) throw new Refused(answer.status, content.error);
    return content;
  }
}

function pause(seconds) {
  return new Promise((resolve) => setTimeout(resolve, seconds * 1000));
}

function firstLine(error) {
  return String(error?.message ?? error).split("\n")[0].slice(0, 1000) || "it fails without a reason";
}
