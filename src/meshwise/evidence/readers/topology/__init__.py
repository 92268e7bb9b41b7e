"""Topologies of one machine: matrices of nvidia-smi and rocm-smi, and the XML file of NCCL."""
