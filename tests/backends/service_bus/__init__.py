"""The Azure Service Bus backend, through the vendor's SDK, on the emulator in tests/emulators."""
