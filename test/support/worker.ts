/**
 * An instance in a process of its own: `worker.ts <url> <table prefix> <milliseconds of work>`. It says "ready", and "start" and
 * "end" with the id of each run, on its standard output. It ends in good order on SIGTERM.
 */
import { Console, Effect, Fiber, Layer, Logger } from "effect"
import { Jobsd } from "jobsd"
import { clientLayer } from "./client.js"
import { Work } from "./work.js"

const [url, tablePrefix, millis] = process.argv.slice(2)

const WorkLive = Work.toLayer((_, run) =>
  Console.log(`start ${run.id} ${run.attempt}`).pipe(
    Effect.zipRight(Effect.sleep(Number(millis))),
    Effect.zipRight(Console.log(`end ${run.id} ${run.attempt}`)),
    Effect.onInterrupt(() => Console.log(`interrupted ${run.id} ${run.attempt}`))
  )
)

const instance = Jobsd.layer({
  jobs: [Work],
  workers: 4,
  tablePrefix: tablePrefix!,
  leaseDuration: "3 seconds",
  timeoutCheck: "500 millis",
  pollInterval: "200 millis"
}).pipe(Layer.provide(WorkLive), Layer.provide(clientLayer(url!, 4)), Layer.provide(Logger.remove(Logger.defaultLogger)))

const fiber = Effect.runFork(Effect.scoped(Effect.zipRight(Layer.build(instance), Effect.zipRight(Console.log("ready"), Effect.never))))
process.once("SIGTERM", () => Effect.runFork(Fiber.interrupt(fiber)))
