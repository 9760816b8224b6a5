/** What a plan says of operations that devices do not support. */
import { formatBytes } from "@ggml-rpc/native/bindings"
import type { UnsupportedOps } from "./engine/messages.ts"

/** The same for people: by the device's name and place. */
export interface PlanUnsupported extends Omit<UnsupportedOps, "device"> {
  /** `RPC0`. */
  readonly device: string
  /** Its server. */
  readonly place: string
}

const listed = (operations: UnsupportedOps["operations"]): string =>
  operations
    .map(({ name, type, nodeCount }) => `${name} of ${type} (${nodeCount} a token)`)
    .join(", ")

/** Why tensors cannot be cut over such a device. */
export const cannotCutOver = ({ device, place, operations }: PlanUnsupported): string =>
  `${device} (${place}) cannot compute ${listed(operations)}, and where tensors are cut (--split-mode tensor) no other device can for it: leave it out (--device), or split layers (--split-mode layer).`

/** One sentence, without a full stop: which operations, where, and what that makes of a token. */
export const describeUnsupported = ({
  device,
  place,
  operations,
  pieceCount,
  bytesPerToken,
}: PlanUnsupported): string => {
  const list = listed(operations)
  const transfers = `${formatBytes(bytesPerToken)} of transfers`
  const meaning =
    pieceCount === 0
      ? "so nothing of a token is computed there"
      : pieceCount === 1
        ? `which takes ${transfers} a token`
        : `so each token goes there ${pieceCount} times, with ${transfers}, which is slow`
  return `${device} (${place}) cannot compute ${list}, which is left to other devices or this host, ${meaning}; to spare that, leave the device out (--tensor-split)`
}
