import { formatBytes, formatMebibytes } from "@ggml-rpc/native/bindings"
import { formatVersion, newest, versionRange } from "@ggml-rpc/protocol"
import type { RunningServer } from "./Server.ts"

/** What upstream's rpc-server prints at its start (protocol version, endpoint, cache, devices), the sandbox, and repacked types. No final line break. */
export const formatBanner = (
  server: Pick<
    RunningServer,
    | "endpoint"
    | "devices"
    | "modelFolders"
    | "cacheDir"
    | "cacheLimitBytes"
    | "protocol"
    | "sandbox"
    | "repacked"
  >,
): string =>
  [
    `Starting RPC server v${server.protocol ?? formatVersion(newest.version)}`,
    `  protocol       : ${server.protocol ?? `${versionRange}, as the client speaks`}`,
    `  endpoint       : ${server.endpoint}`,
    `  local cache    : ${cacheText(server)}`,
    ...(server.modelFolders.length === 0
      ? []
      : [`  models         : ${server.modelFolders.join(", ")}`]),
    "Devices:",
    ...server.devices.map(
      (device) =>
        `  ${device.name}: ${device.description} (${formatMebibytes(device.totalBytes)}, ${formatMebibytes(device.freeBytes)} free)`,
    ),
    "  transport      : TCP",
    `  sandbox        : ${server.sandbox}`,
    `  repacks        : ${server.repacked.join(", ") || "nothing"}`,
  ].join("\n")

const cacheText = ({
  cacheDir,
  cacheLimitBytes,
}: Pick<RunningServer, "cacheDir" | "cacheLimitBytes">): string =>
  cacheDir === undefined ? "n/a" : `${cacheDir} (up to ${formatBytes(cacheLimitBytes ?? 0)})`
