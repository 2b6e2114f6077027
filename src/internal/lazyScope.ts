/** A Scope that costs nothing until somebody adds a finalizer: `Effect.scoped` around every attempt costs 4 us. */
import * as Effect from "effect/Effect"
import * as ExecutionStrategy from "effect/ExecutionStrategy"
import type * as Exit from "effect/Exit"
import { pipeArguments } from "effect/Pipeable"
import * as Scope from "effect/Scope"

export interface LazyScope {
  readonly scope: Scope.Scope
  /** runs the finalizers; null if there are none. What is added later runs at once. */
  readonly close: (exit: Exit.Exit<unknown, unknown>) => Effect.Effect<void> | null
}

class LazyScopeImpl implements Scope.Scope, LazyScope {
  readonly [Scope.ScopeTypeId]: Scope.ScopeTypeId = Scope.ScopeTypeId
  readonly strategy = ExecutionStrategy.sequential
  /** the first finalizer, which mostly stays the only one, needs no real scope */
  private first: Scope.Scope.Finalizer | undefined
  private real: Scope.CloseableScope | undefined
  private closedWith: Exit.Exit<unknown, unknown> | undefined

  get scope(): Scope.Scope {
    return this
  }

  private inReal<A>(use: (real: Scope.CloseableScope) => Effect.Effect<A>): Effect.Effect<A> {
    return Effect.suspend(() => {
      if (this.real !== undefined) return use(this.real)
      return Effect.flatMap(Scope.make(ExecutionStrategy.sequential), (made) => {
        const { closedWith, first } = this
        this.real = made
        this.first = undefined
        if (closedWith !== undefined) return Effect.zipRight(Scope.close(made, closedWith), use(made))
        return first === undefined ? use(made) : Effect.zipRight(Scope.addFinalizerExit(made, first), use(made))
      })
    })
  }

  addFinalizer(finalizer: Scope.Scope.Finalizer): Effect.Effect<void> {
    return Effect.suspend(() => {
      if (this.real !== undefined || this.first !== undefined || this.closedWith !== undefined) {
        return this.inReal((real) => Scope.addFinalizerExit(real, finalizer))
      }
      this.first = finalizer
      return Effect.void
    })
  }

  fork(strategy: ExecutionStrategy.ExecutionStrategy): Effect.Effect<Scope.Scope.Closeable> {
    return this.inReal((real) => Scope.fork(real, strategy))
  }

  close(exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> | null {
    this.closedWith = exit
    if (this.real !== undefined) return Scope.close(this.real, exit)
    const { first } = this
    this.first = undefined
    return first === undefined ? null : Effect.asVoid(Effect.suspend(() => first(exit)))
  }

  pipe() {
    // biome-ignore lint/complexity/noArguments: that is the signature
    return pipeArguments(this, arguments)
  }
}

export const make = (): LazyScope => new LazyScopeImpl()
