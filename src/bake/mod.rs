//! The pipeline: stages, progress, report.
