/** What a cluster tells by itself, for people and as JSON: a server that is waited for long, what makes a model slow. */
import type { Cluster } from "@ggml-rpc/client"
import { formatEta } from "./units.ts"

export const waitLine = ({
  endpoint,
  others = [],
  waitedMs,
  isOver,
}: Cluster.ServerWait): string => {
  const time = formatEta(waitedMs / 1000)
  if (others.length > 0 && !isOver) {
    return `note: waiting for ${endpoint} for ${time} now, which adds up sums with ${others.join(", ")}: one of them is computing, or hangs`
  }
  return isOver
    ? `note: ${endpoint} was waited for ${time}`
    : `note: waiting for ${endpoint} for ${time} now: it is computing, or it hangs`
}

/** The same as an event. */
export const waitEvent = (wait: Cluster.ServerWait) => ({ event: "waiting", ...wait })

export const noteText = (text: string): string => `note: ${text}`

/** The same as an event. */
export const noteEvent = (text: string) => ({ event: "note", text })
