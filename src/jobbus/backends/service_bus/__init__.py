"""The parts of the Azure Service Bus backend: what travels, the links it travels on, its errors."""
