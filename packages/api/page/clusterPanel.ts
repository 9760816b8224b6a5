/** Looks at the cluster while somebody looks at it here. */
import { clusterView } from "./clusterView.ts"
import { byId, element } from "./dom.ts"
import { withKey } from "./key.ts"
import { LinkMeter } from "./linkRates.ts"
import { morph } from "./morph.ts"
import { clusterReport, RequestError } from "./server.ts"

const INTERVAL_MS = 2000
/** Points of the curve: two minutes. */
const MAX_SAMPLES = 60

const panel = byId("cluster")
const body = byId("cluster-body")
const toggle = byId("toggle-cluster")
const model = byId("model")

const links = new LinkMeter()

/** Tokens a second, one each look. */
const samples: Array<number> = []
let tokenCount: number | undefined
let sampledAtMs = 0

/** The rate since the last look, which may be long ago. */
const sample = (generatedTokenCount: number): void => {
  const nowMs = performance.now()
  if (tokenCount !== undefined && generatedTokenCount >= tokenCount) {
    samples.push(((generatedTokenCount - tokenCount) * 1000) / (nowMs - sampledAtMs))
    if (samples.length > MAX_SAMPLES) samples.shift()
  }
  tokenCount = generatedTokenCount
  sampledAtMs = nowMs
}

const look = async (): Promise<void> => {
  const report = await withKey(clusterReport)
  sample(report.generated_token_count)
  model.textContent = report.model.name
  document.title = `${report.model.name} – ggml-rpc`
  const view = clusterView(report, samples, links.measure(report))
  morph(body, element("div", { id: "cluster-body" }, ...view))
}

const isLookedAt = (): boolean => !panel.hidden && document.visibilityState === "visible"

const showError = (error: unknown): void => {
  const text = error instanceof Error ? error.message : String(error)
  morph(body, element("div", { id: "cluster-body" }, element("p", { class: "error" }, text)))
}

/** Somebody who has no key is not asked again and again. */
const isRefused = (error: unknown): boolean => error instanceof RequestError && error.status === 401

let timer: ReturnType<typeof setTimeout> | undefined
let isLooking = false

/** Looks, and again as long as somebody does; in any case until the model is there, whose name is shown. */
const run = async (): Promise<void> => {
  if (isLooking) return
  clearTimeout(timer)
  isLooking = true
  let goesOn = false
  try {
    await look()
    goesOn = isLookedAt()
  } catch (error) {
    showError(error)
    goesOn = !isRefused(error)
  }
  isLooking = false
  if (goesOn) timer = setTimeout(run, INTERVAL_MS)
}

const setShown = (isShown: boolean): void => {
  panel.hidden = !isShown
  toggle.setAttribute("aria-expanded", String(isShown))
  if (isShown) void run()
}

export const initCluster = (): void => {
  toggle.addEventListener("click", () => setShown(panel.hidden === true))
  document.addEventListener("visibilitychange", () => {
    if (isLookedAt()) void run()
  })
  setShown(matchMedia("(min-width: 64rem)").matches)
  if (panel.hidden) void run()
}
