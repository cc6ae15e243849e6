// A device at work: takes networks from the server, measures them with onnxruntime-web, posts every repeat. Page and Node.
import { breathe, checkOthers, Course, DeviceGone, firstLine, takeTurns, withTick } from "./measuring.js";

const PAUSE_SECONDS = 5; // between two questions for work when there is none, and before trying again
const KEPT_EVERY = 10; // seconds: what was measured is remembered, should the page be closed
const FEWEST_JOBS = 4; // in a session, however long a turn takes
const MEMORY_SHARE = 8; // files of a session fill at most one part in so many

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
   * @param {number} device.patience seconds for which a server that cannot be reached is asked again; default: for ever
   */
  constructor(device) {
    Object.assign(this, device);
    this.patience ??= Infinity;
    this.client = "";
    this.anchors = new Map(); // by key and resolution; loaded once, they take part in every session
    this.sessions = 0;
  }

  /** For good, or, with `untilDone`, until nothing is left. */
  async run() {
    for (;;) {
      try {
        await this.hello();
        return await this.work();
      } catch (error) {
        if (!(error instanceof Refused && error.status === 410)) throw error;
        await this.memory.setItem("client", ""); // it is over: a new one
      }
    }
  }

  async hello() {
    const { hardware, browser, provider } = this;
    const resumes = (await this.memory.getItem("client")) || null;
    const welcome = await this.insist("hello", { hardware, browser, provider, resumes });
    this.client = welcome.client;
    this.fingerprint = welcome.fingerprint;
    this.sampling = withTick(welcome.sampling, now);
    await this.memory.setItem("client", this.client);
    this.show({ type: "hello", ...welcome });
    this.ort ??= await this.load(welcome.runtime);
    clearInterval(this.pulse);
    this.pulse = setInterval(() => this.ask("renew").catch(() => {}), (welcome.silence_seconds / 3) * 1000);
    this.pulse.unref?.(); // Node ends although it beats
  }

  async work() {
    try {
      await this.postUnsent();
      for (;;) {
        await this.view.shown();
        const work = await this.insist("lease");
        this.show({ type: "progress", progress: work.progress });
        if (work.jobs.length) await this.measure(work);
        else if (this.untilDone && work.progress.finished) return;
        else await pause(PAUSE_SECONDS);
      }
    } finally {
      clearInterval(this.pulse);
    }
  }

  /** Load what is to be measured and the anchors, measure them in one session, and post it. */
  async measure({ purpose, anchors, jobs }) {
    const beside = [], failures = [];
    await this.keepAnchors(anchors, failures);
    if (failures.length && !this.anchors.size) throw new Error(`no network runs here: ${failures[0].reason}`); // not its fault
    for (const job of jobs.filter((job) => !anchors.some((anchor) => nameOf(anchor) === nameOf(job)))) {
      if (purpose !== "final" && this.isFull(beside)) break;
      await this.enter(job, [...this.anchors.values(), ...beside], failures, (network) => beside.push(network));
    }
    try {
      const networks = [...this.anchors.values(), ...beside];
      this.show({ type: "measuring", jobs: networks.map(({ job }) => job), purpose });
      await this.session(purpose, networks, failures);
    } finally {
      for (const { release } of beside) await release();
    }
    await this.postUnsent();
  }

  /** Load the anchors that are new, and let go of those that the server does not name any more. */
  async keepAnchors(anchors, failures) {
    const names = new Set(anchors.map(nameOf));
    for (const [name, { course, release }] of this.anchors) {
      course.spent = 0;
      if (names.has(name) && course.error === null) continue;
      this.anchors.delete(name);
      await release();
    }
    for (const anchor of anchors) {
      if (this.anchors.has(nameOf(anchor))) continue;
      const add = (network) => this.anchors.set(nameOf(anchor), network);
      await this.enter(anchor, [...this.anchors.values()], failures, add);
    }
  }

  /** Load a network, warm it up and add it; or write down why not. */
  async enter(job, others, failures, add) {
    this.show({ type: "loading", job });
    let network;
    try {
      network = await this.network(job);
      await network.course.warmUp();
      await breathe();
      add(network);
    } catch (error) {
      if (error instanceof Refused) throw error;
      await network?.release();
      await checkOthers(others.map(({ course }) => course), error);
      failures.push({ key: job.key, resolution: job.resolution, reason: firstLine(error) });
    }
  }

  /** Whether a turn would take too long, or the networks too much memory, with more than these beside the anchors. */
  isFull(beside) {
    const networks = [...this.anchors.values(), ...beside], gigabytes = globalThis.navigator?.deviceMemory ?? 4;
    const seconds = networks.reduce((sum, { course }) => sum + course.turnSeconds, 0);
    const bytes = networks.reduce((sum, network) => sum + network.bytes, 0);
    const isLarge = seconds >= this.sampling.turn_seconds || bytes * MEMORY_SHARE >= gigabytes * 2 ** 30;
    return beside.length >= FEWEST_JOBS && isLarge;
  }

  /** Let networks take turns. What a browser slowed down, as they do with hidden pages, is measured again. */
  async session(purpose, networks, failures) {
    const { sampling } = this, courses = networks.map(({ course }) => course), turns = [];
    let kept = now();
    const keep = () => {
      const failed = networks.filter(({ course }) => course.error !== null)
        .map(({ job, course }) => ({ key: job.key, resolution: job.resolution, reason: firstLine(course.error) }));
      const enough = turns.length >= sampling.min_turns;
      const session = {
        purpose,
        networks: enough ? networks.map(({ job: { key, resolution }, course }) => ({ key, resolution, calls_per_repeat: course.calls })) : [],
        turns: enough ? turns : [],
        failures: [...failures, ...failed],
      };
      return this.memory.setItem("unsent", JSON.stringify({ fingerprint: this.fingerprint, session, ended: Date.now() }));
    };
    await this.view.shown();
    this.view.hidden = false;
    try {
      this.sessions++;
      for await (const turn of takeTurns(courses, sampling, now, sampling.seed + this.sessions)) {
        if (this.view.hidden) {
          turn.doubt = "the page was hidden";
          await this.view.shown();
          this.view.hidden = false;
          continue;
        }
        turns.push({ started: turn.started, seconds: turn.seconds.map(rounded) });
        const likely = Math.min(2 * sampling.min_turns, sampling.max_turns);
        this.show({ type: "turn", share: Math.min(0.95, turns.length / likely) });
        if (now() - kept > KEPT_EVERY * 1000 && turns.length >= sampling.min_turns) {
          await keep();
          kept = now();
        }
      }
    } catch (error) {
      if (error instanceof DeviceGone) {
        failures = [];
        for (const course of courses) course.error = null; // not their fault
        await keep();
        await this.postUnsent();
        throw new Error(`the device stopped working (${error.message}): open the page again`);
      }
      throw error;
    }
    await keep();
  }

  async postUnsent() {
    const unsent = await this.memory.getItem("unsent");
    if (!unsent) return;
    const { fingerprint, session, ended } = JSON.parse(unsent);
    const ago = Math.max(0, (Date.now() - ended) / 1000);
    try {
      if (fingerprint === this.fingerprint) this.show({ type: "posted", ...(await this.insist("session", { session, ago })) });
    } catch (error) {
      if (!(error instanceof Refused) || error.status === 410) throw error;
      this.show({ type: "error", text: error.message });
      if (error.status !== 400) throw error;
    }
    await this.memory.setItem("unsent", "");
  }

  /** A network of the server, loaded; its course calls it. Throws where this device cannot run it. */
  async network(job) {
    const { key, resolution } = job;
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
    const release = () => session.release();
    return { job, bytes: model.byteLength, course: new Course(run, this.sampling, now), release };
  }

  /** Ask until the server can be reached. */
  async insist(request, data, options) {
    for (const began = now(); ; ) {
      try {
        return await this.ask(request, data, options);
      } catch (error) {
        // 507: its disk is full; nothing of what we have is lost by waiting.
        if (error instanceof Refused && error.status !== 507) throw error;
        if (now() - began > this.patience * 1000) throw new Error(`the server cannot be reached for ${this.patience} s`);
        this.show({ type: "waiting", text: error instanceof Refused ? error.message : "the server cannot be reached; trying again" });
        await pause(PAUSE_SECONDS);
      }
    }
  }

  async ask(request, data = null, { binary = false } = {}) {
    const answer = await fetch(`${this.address}/api/${request}`, {
      method: "POST",
      headers: { Authorization: `Bearer ${this.token}`, "X-Client": this.client },
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

const now = () => performance.now();

const nameOf = ({ key, resolution }) => `${key} ${resolution}`;

/** To seven digits: a clock is no better, and a session has tens of thousands of them. */
const rounded = (seconds) => (seconds === null ? null : Number(seconds.toPrecision(7)));
