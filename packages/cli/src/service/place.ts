/** Where this user's services are described, and which programs look after them. */
import { homedir } from "node:os"
import { join } from "node:path"
import { launchdAgent, systemdUnit } from "./description.ts"

/** What a service runs. */
export interface ServiceCommand {
  /** Program and arguments. */
  readonly words: ReadonlyArray<string>
  /** Relative paths among the arguments are read from here. */
  readonly folder: string
}

/** A platform's way to run a program for a user. */
export interface ServiceManager {
  /** The file that describes the service. */
  readonly path: string
  readonly describe: (command: ServiceCommand) => string
  /** Run when the file is there. */
  readonly start: ReadonlyArray<ReadonlyArray<string>>
  /** Run before the file goes. */
  readonly stop: ReadonlyArray<ReadonlyArray<string>>
  /** Run after the file went. */
  readonly forget: ReadonlyArray<ReadonlyArray<string>>
  /** Sentences for who has installed it. */
  readonly hints: ReadonlyArray<string>
}

const UNIT = "ggml-rpc.service"
const LABEL = "ggml-rpc.serve"

const systemd = (environment: NodeJS.ProcessEnv): ServiceManager => ({
  path: join(
    environment.XDG_CONFIG_HOME || join(environment.HOME || homedir(), ".config"),
    "systemd",
    "user",
    UNIT,
  ),
  describe: systemdUnit,
  start: [
    ["systemctl", "--user", "daemon-reload"],
    ["systemctl", "--user", "enable", "--now", UNIT],
  ],
  stop: [["systemctl", "--user", "disable", "--now", UNIT]],
  forget: [["systemctl", "--user", "daemon-reload"]],
  hints: [
    `Its log: journalctl --user -u ${UNIT}`,
    "It runs while you are logged in; 'loginctl enable-linger' keeps it from boot on.",
  ],
})

const launchd = (environment: NodeJS.ProcessEnv): ServiceManager => {
  const home = environment.HOME || homedir()
  const path = join(home, "Library", "LaunchAgents", `${LABEL}.plist`)
  const log = join(home, "Library", "Logs", "ggml-rpc.log")
  const domain = `gui/${process.getuid?.() ?? 501}`
  return {
    path,
    describe: (command) => launchdAgent(LABEL, log, command),
    start: [["launchctl", "bootstrap", domain, path]],
    stop: [["launchctl", "bootout", `${domain}/${LABEL}`]],
    forget: [],
    hints: [`Its log: ${log}`],
  }
}

/** The manager of this platform. */
export const serviceManager = (
  platform: string = process.platform,
  environment: NodeJS.ProcessEnv = process.env,
): ServiceManager => (platform === "darwin" ? launchd : systemd)(environment)
