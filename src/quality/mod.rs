//! The four quality metrics with their intervals, the gates and their three-valued verdicts, the cheat detector. Pure: values in, values out.
