"""A folder that proves a file on a device: expected integers, and three ways to compare with them, none with jaxq."""

from jaxq.export.device_proof.folder import save_proof as save_proof
