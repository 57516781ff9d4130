"""The engine of GPT Dyno: loads a model, changes it, runs it and measures it.

Nothing below this package knows Qt. Whatever the window must read before torch is loaded (messages, recipes,
technique options, storage, monitor, worker) imports torch only inside functions.
"""
