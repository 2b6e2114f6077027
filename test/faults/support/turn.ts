/**
 * A turn of the event loop for everything else. A test that computes for a minute lets nobody hear meanwhile that it lives, which vitest
 * reports as an error of its own.
 */
export const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
