/** Servers of ours with several devices that compute by themselves; see peers/paired-device.cpp. */
import { ensurePeers } from "./peers/peers.ts"
import { type OurServer, type OurServerOptions, startOurServer } from "./servers.ts"

export type PairedOptions = Pick<OurServerOptions, "flags" | "env">

/** Builds the device at the first use, which takes seconds. */
export const startPairedServer = async (
  count: number,
  { flags = [], env = {} }: PairedOptions = {},
): Promise<OurServer> => {
  const { "libpaired-device.so": backend } = await ensurePeers(["libpaired-device.so"])
  const names = Array.from({ length: count }, (_, index) => `PAIRED${index}`)
  return startOurServer({
    flags: ["--device", names.join(","), ...flags],
    env: { GGML_BACKEND_PATH: backend, GGML_PAIRED_COUNT: String(count), ...env },
  })
}
