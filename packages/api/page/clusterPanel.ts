/** Looks at the cluster while somebody looks at it here. */
import { clusterView, type Sample } from "./clusterView.ts"
import { byId, element } from "./dom.ts"
import { withKey } from "./key.ts"
import { morph } from "./morph.ts"
import { clusterReport, RequestError } from "./server.ts"

const INTERVAL_MS = 2000
/** Points of the curve: two minutes. */
const MAX_SAMPLES = 60

const panel = byId("cluster")
const body = byId("cluster-body")
const toggle = byId("toggle-cluster")
const model = byId("model")

const samples: Array<Sample> = []
let tokenCount: number | undefined
let sampledAtMs = 0

/** The rate since the last look, which may be long ago. */
const sample = (generatedTokenCount: number): void => {
  const nowMs = performance.now()
  if (tokenCount !== undefined && generatedTokenCount >= tokenCount) {
    samples.push({
      tokensPerSecond: ((generatedTokenCount - tokenCount) * 1000) / (nowMs - sampledAtMs),
    })
    if (samples.length > MAX_SAMPLES) samples.shift()
  }
  tokenCount = generatedTokenCount
  sampledAtMs = nowMs
}

const look = async (): Promise<void> => {
  const report = await withKey(() => clusterReport(AbortSignal.timeout(30_000)))
  sample(report.generated_token_count)
  model.textContent = report.model.name
  document.title = `${report.model.name} – ggml-rpc`
  morph(body, element("div", { id: "cluster-body" }, ...clusterView(report, samples)))
}

const isLookedAt = (): boolean => !panel.hidden && document.visibilityState === "visible"

/** How long until the next look; undefined: not by itself. */
const afterError = (error: unknown): number | undefined => {
  const isLoading = error instanceof RequestError && error.status === 503
  const text = error instanceof Error ? error.message : String(error)
  if (isLoading) model.textContent = "Loading the model…"
  morph(
    body,
    element(
      "div",
      { id: "cluster-body" },
      element("p", { class: "error" }, isLoading ? "The model is being loaded." : text),
    ),
  )
  // Somebody who has no key is not asked again and again.
  return error instanceof RequestError && error.status === 401 ? undefined : INTERVAL_MS
}

let timer: ReturnType<typeof setTimeout> | undefined
let isLooking = false

const run = async (): Promise<void> => {
  if (isLooking) return
  clearTimeout(timer)
  isLooking = true
  let wait: number | undefined = INTERVAL_MS
  let isFirst = false
  try {
    await look()
  } catch (error) {
    wait = afterError(error)
    isFirst = true
  }
  isLooking = false
  // Its name is shown in any case, once there is a model.
  if (wait !== undefined && (isLookedAt() || isFirst)) timer = setTimeout(run, wait)
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
