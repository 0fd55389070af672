"""Behind `nnunet-gml simulate`: the run folder, nnU-Net's commands as jobs, progress, scores."""
