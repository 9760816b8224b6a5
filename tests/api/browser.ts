/** Chromium, as the system has it. */
import { type Browser, chromium } from "playwright-core"

/** Without a window; its profile is a temporary folder that goes with it. */
export const launchBrowser = (): Promise<Browser> => {
  const executablePath = Bun.which("chromium") ?? Bun.which("chromium-browser")
  if (executablePath === null) {
    throw new Error("There is no Chromium here: 'apt-get install chromium', as .ci/run does.")
  }
  return chromium.launch({
    executablePath,
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  })
}
