"""Device-side programs, as a firmware author would write them. They import nothing of Fieldline.

turbine.py: publishes over MQTT. meter.py: posts over CoAP. fleet.py: many devices in one process.
"""
