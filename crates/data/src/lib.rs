//! Records, chat templates, tokenising, masks, packing and batches on the host.
