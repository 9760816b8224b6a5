/** The cluster as elements: what runs, the model's layers by device, then hosts with their devices. */
import type {
  ClusterReport,
  ReportedDevice,
  ReportedHost,
  ReportedServer,
  ReportedSlot,
} from "../src/own/clusterReport.ts"
import { element } from "./dom.ts"
import { formatBytes, formatCount, formatRate, formatSeconds } from "./format.ts"
import type { LinkRate, LinkRates } from "./linkRates.ts"

/** Colours of devices; then they begin again. */
const TONE_COUNT = 8

const svg = <K extends keyof SVGElementTagNameMap>(
  tag: K,
  attributes: Readonly<Record<string, string>>,
  ...children: ReadonlyArray<Node>
): SVGElementTagNameMap[K] => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag)
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value)
  made.append(...children)
  return made
}

/** The rates of the last minutes; what they are now stands beside it as a number. */
const curve = (samples: ReadonlyArray<number>): Element => {
  const highest = Math.max(1, ...samples)
  const points = samples.map(
    (tokensPerSecond, index) =>
      `${120 - (samples.length - 1 - index) * 2},${(30 - (tokensPerSecond / highest) * 28).toFixed(1)}`,
  )
  return svg(
    "svg",
    { class: "curve", viewBox: "0 0 120 32", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("polyline", { points: points.join(" ") }),
  )
}

const fact = (name: string, value: string): HTMLElement =>
  element("div", {}, element("dt", {}, name), element("dd", {}, value))

const activity = (report: ClusterReport, samples: ReadonlyArray<number>): HTMLElement => {
  const { slots, queued_count } = report
  const running = slots.filter(({ state }) => state !== "idle").length
  const rate = samples.at(-1) ?? 0
  return element(
    "section",
    { class: "activity", "aria-label": "Activity" },
    element(
      "dl",
      { class: "facts" },
      fact("tokens/s", formatRate(rate)),
      fact("running", `${running} of ${slots.length}`),
      fact("waiting", String(queued_count)),
    ),
    curve(samples),
  )
}

/** `layers 0–4, output`; undefined: nothing of the model's. */
const partOf = ({
  first_layer,
  layer_count,
  has_input,
  has_output,
}: ReportedDevice): string | undefined => {
  const last = first_layer + layer_count - 1
  const parts = [
    ...(has_input ? ["input"] : []),
    ...(layer_count === 0
      ? []
      : [layer_count === 1 ? `layer ${last}` : `layers ${first_layer}–${last}`]),
    ...(has_output ? ["output"] : []),
  ]
  return parts.length === 0 ? undefined : parts.join(", ")
}

interface Toned {
  readonly device: ReportedDevice
  readonly tone: string
}

/** The model as a line: a cell a layer, in the colour of its device. */
const layerMap = ({ model }: ClusterReport, devices: ReadonlyArray<Toned>): HTMLElement => {
  const used = devices.filter(({ device }) => partOf(device) !== undefined)
  const runs = used
    .filter(({ device }) => device.layer_count > 0)
    .map(({ device, tone }) => {
      const run = element("span", { class: `run ${tone}` })
      run.style.flexGrow = String(device.layer_count)
      // One by one they are seen up to here.
      run.append(
        ...(model.layer_count > 96
          ? [element("span")]
          : Array.from({ length: device.layer_count }, () => element("span"))),
      )
      return run
    })
  const told = used.map(({ device }) => `${partOf(device)} on ${device.name}`).join("; ")
  return element(
    "section",
    { "aria-labelledby": "layers-title" },
    element("h3", { id: "layers-title" }, "Layers"),
    element("div", { class: "layers", role: "img", "aria-label": told }, ...runs),
    element(
      "p",
      { class: "note" },
      [
        model.architecture,
        formatCount(model.layer_count, "layer"),
        formatBytes(model.size_bytes),
        `context ${model.context_size.toLocaleString("en")}`,
      ].join(" · "),
    ),
  )
}

const memoryParts = (device: ReportedDevice) => {
  const { weight_bytes, context_bytes, compute_bytes, free_bytes, total_bytes } = device
  const own = weight_bytes + context_bytes + compute_bytes
  return [
    { kind: "weights", name: "weights", bytes: weight_bytes },
    { kind: "context", name: "KV cache", bytes: context_bytes },
    { kind: "compute", name: "compute", bytes: compute_bytes },
    { kind: "others", name: "others", bytes: Math.max(0, total_bytes - free_bytes - own) },
  ]
}

const memoryBar = ({ device, tone }: Toned): HTMLElement => {
  const parts = memoryParts(device)
  const { free_bytes, total_bytes } = device
  const told = parts.map(({ name, bytes }) => `${name} ${formatBytes(bytes)}`).join(", ")
  return element(
    "div",
    {
      class: `memory ${tone}`,
      role: "img",
      "aria-label": `Memory: ${told}, ${formatBytes(free_bytes)} free of ${formatBytes(total_bytes)}`,
    },
    ...parts
      .filter(({ bytes }) => bytes > 0)
      .map(({ kind, bytes }) => {
        const part = element("span", { class: kind })
        part.style.width = `${Math.min(100, (bytes / Math.max(1, total_bytes)) * 100).toFixed(2)}%`
        return part
      }),
  )
}

const deviceView = ({ device, tone }: Toned): HTMLElement => {
  const { name, weight_bytes, context_bytes, compute_bytes, free_bytes, total_bytes } = device
  return element(
    "li",
    { class: "device", "data-key": name },
    element(
      "p",
      { class: "device-name" },
      element("span", { class: `dot ${tone}` }),
      element("strong", {}, name),
      element("span", {}, partOf(device) ?? "nothing of the model"),
    ),
    memoryBar({ device, tone }),
    element(
      "p",
      { class: "note" },
      `${formatBytes(weight_bytes)} weights · ${formatBytes(context_bytes)} KV · ${formatBytes(compute_bytes)} compute`,
    ),
    element(
      "p",
      { class: "note" },
      `${formatBytes(free_bytes)} free of ${formatBytes(total_bytes)}`,
    ),
  )
}

/** Devices whose memory is one, so that what is free there is free once. */
const sharedTexts = (devices: ReadonlyArray<Toned>): ReadonlyArray<string> => {
  const namesByMemory = new Map<string, Array<string>>()
  for (const { device } of devices) {
    if (device.memory === undefined) continue
    const names = namesByMemory.get(device.memory)
    if (names === undefined) namesByMemory.set(device.memory, [device.name])
    else names.push(device.name)
  }
  return [...namesByMemory.values()]
    .filter(({ length }) => length > 1)
    .map((names) => `${names.slice(0, -1).join(", ")} and ${names.at(-1)} draw from one memory.`)
}

const rateText = ({ sent, received }: LinkRate): string =>
  `${formatBytes(sent)}/s out, ${formatBytes(received)}/s in`

const serverLine = (
  { endpoint, kind, version, warning }: ReportedServer,
  rate: LinkRate | undefined,
): HTMLElement =>
  element(
    "li",
    { "data-key": endpoint },
    `${endpoint} · ${kind} · protocol ${version}`,
    rate === undefined ? undefined : element("span", { class: "rate" }, rateText(rate)),
    warning === undefined ? undefined : element("span", { class: "warning" }, warning),
  )

const hostView = (
  host: ReportedHost,
  devices: ReadonlyArray<Toned>,
  rates: LinkRates,
): HTMLElement =>
  element(
    "section",
    { class: "host", "aria-label": host.name ?? "This server's host", "data-key": host.name ?? "" },
    element("h3", {}, host.name ?? "This server's host"),
    host.servers.length === 0
      ? undefined
      : element(
          "ul",
          { class: "servers note" },
          ...host.servers.map((server) => serverLine(server, rates.get(server.endpoint))),
        ),
    element(
      "ul",
      { class: "devices" },
      ...devices.filter(({ device }) => host.devices.includes(device)).map(deviceView),
    ),
  )

const slotTexts = { idle: "idle", prompt: "reads its prompt", generating: "answers" } as const

const slotView = ({ id, state, token_count }: ReportedSlot): HTMLElement =>
  element(
    "li",
    { class: `slot ${state}`, "data-key": id },
    element("span", { class: "dot" }),
    `Slot ${id} ${slotTexts[state]}`,
    element("span", { class: "note" }, formatCount(token_count, "token")),
  )

const slotsView = ({ slots }: ClusterReport): HTMLElement =>
  element(
    "section",
    { "aria-labelledby": "slots-title" },
    element("h3", { id: "slots-title" }, "Requests"),
    element("ul", { class: "slots" }, ...slots.map(slotView)),
  )

/** The rate of the links, as the load of the weights showed it. */
const loadText = ({
  load: { ms, sent_bytes, cached_bytes },
}: ClusterReport): string | undefined => {
  if (sent_bytes + cached_bytes === 0) return undefined
  const cached =
    cached_bytes === 0 ? "" : ` ${formatBytes(cached_bytes)} were in the servers' caches.`
  return sent_bytes === 0
    ? `All weights were in the servers' caches.`
    : `The weights took ${formatSeconds(ms)} to the servers: ${formatBytes(sent_bytes)}, ${formatBytes((sent_bytes * 1000) / Math.max(1, ms))}/s.${cached}`
}

const legend = (): HTMLElement =>
  element(
    "ul",
    { class: "legend note", "aria-hidden": "true" },
    ...["weights", "context", "compute", "others"].map((kind) =>
      element("li", {}, element("span", { class: kind }), kind === "context" ? "KV cache" : kind),
    ),
  )

export const clusterView = (
  report: ClusterReport,
  samples: ReadonlyArray<number>,
  rates: LinkRates,
): ReadonlyArray<HTMLElement> => {
  const devices = report.hosts
    .flatMap((host) => host.devices)
    .map((device, index) => ({ device, tone: `tone-${index % TONE_COUNT}` }))
  const load = loadText(report)
  const notes = [...sharedTexts(devices), ...(load === undefined ? [] : [load])]
  return [
    activity(report, samples),
    layerMap(report, devices),
    ...report.hosts.map((host) => hostView(host, devices, rates)),
    legend(),
    slotsView(report),
    ...notes.map((text) => element("p", { class: "note" }, text)),
  ]
}
