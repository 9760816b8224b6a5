import { deviceDomain } from "@ggml-rpc/native/bindings"
import { extensionCommands } from "@ggml-rpc/protocol"
import { refuse } from "../errors.ts"
import type { SessionState } from "../SessionState.ts"
import { serverNameBytes } from "../serverName.ts"

/** MEMORY_DOMAIN: which server this is, and which memory the device draws from. */
export const memoryDomain = ({ wire, devices, serverName }: SessionState): void => {
  const { response } = extensionCommands.MEMORY_DOMAIN
  const index = wire.words[0]!
  const served = devices[index]
  if (served === undefined) {
    refuse("device", `must be below the device count ${devices.length}`, index)
  }
  const at = wire.answer(response.minSizeBytes)
  const domain = deviceDomain(served.device, serverName)
  response.encode({ server: serverNameBytes(serverName), domain }, wire.out, at)
}
