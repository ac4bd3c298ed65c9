//! One file a target; merge tensor by tensor; every export is read back.
