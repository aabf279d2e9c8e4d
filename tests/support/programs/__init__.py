"""Programs that tests start in processes of their own: `turbo worker` with a guard taken out, or a defect put in."""
